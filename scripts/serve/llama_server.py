"""llama.cpp's server in a process of its own: `python -m scripts.serve.llama_server MODEL.gguf STREAMS BLOCK PORT THREADS`. It
ends with its standard input."""

import sys

import xllamacpp


def main():
    model, streams, block, port, threads = sys.argv[1], *map(int, sys.argv[2:])
    options = xllamacpp.CommonParams()
    options.model.path = model
    options.n_parallel, options.n_ctx = streams, block * streams
    options.hostnames, options.port = ["127.0.0.1"], port
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    options.verbosity = 0
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
