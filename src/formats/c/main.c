#ifdef KINGLET_MAIN
/* Continues a prompt, with the options of `kinglet sample`. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static kinglet state;

static int usage(const char *program)
{
    fprintf(stderr, "usage: %s [--prompt TEXT] [--ids ID,ID,...] [--tokens N] [--temperature X] [--seed N]\n", program);
    return 2;
}

/* Reads a whole number; returns 0 if it is none. */
static int whole(const char *text, unsigned long *number)
{
    char *end;
    errno = 0;
    *number = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno;
}

/* Gives the model a prompt; returns 0 if it could not. */
static int start(const char *prompt)
{
#if KINGLET_ENCODES
    size_t length = strlen(prompt);
    uint32_t *ids = malloc((length + 1) * sizeof *ids);
    long n, i;
    if (!ids)
        return 0;
    n = kinglet_encode(prompt, length, ids);
#ifdef KINGLET_BEGIN
    if (n == 0 || (n > 0 && ids[0] != KINGLET_BEGIN))
        kinglet_push(&state, KINGLET_BEGIN);
#endif
    for (i = 0; i < n; i++)
        kinglet_push(&state, ids[i]);
    free(ids);
    if (n < 0)
        fprintf(stderr, "the model does not know the character at byte %ld of the prompt\n", -1 - n);
    return n >= 0;
#else
    if (*prompt)
        fprintf(stderr, "the tokenizer of this model is not in this program: give --ids\n");
    return !*prompt;
#endif
}

int main(int count, char **arguments)
{
    const char *prompt = "", *ids = "";
    unsigned long tokens = 500, seed = 1337, i;
    double temperature = 1;
    int at, known = 1;
    for (at = 1; at < count; at += 2) {
        const char *key = arguments[at], *value = arguments[at + 1];
        if (at + 1 == count)
            return usage(arguments[0]);
        if (strcmp(key, "--prompt") == 0)
            prompt = value;
        else if (strcmp(key, "--ids") == 0)
            ids = value;
        else if (strcmp(key, "--tokens") == 0)
            known = whole(value, &tokens);
        else if (strcmp(key, "--temperature") == 0) {
            char *end;
            temperature = strtod(value, &end);
            /* Neither is a number that is none, nor an infinite one. */
            known = end != value && !*end && temperature >= 0 && temperature <= 1e30;
        } else if (strcmp(key, "--seed") == 0)
            known = whole(value, &seed);
        else
            known = 0;
        if (!known)
            return usage(arguments[0]);
    }
    kinglet_init(&state, seed);
    if (!start(prompt))
        return 1;
    while (*ids) {
        char *end;
        unsigned long id = strtoul(ids, &end, 10);
        if (end == ids || id >= KINGLET_VOCAB_SIZE)
            return usage(arguments[0]);
        kinglet_push(&state, (uint32_t)id);
        ids = *end == ',' ? end + 1 : end;
    }
    fputs(prompt, stdout);
    for (i = 0; i < tokens; i++) {
        uint32_t id = kinglet_draw(&state, temperature);
#ifdef KINGLET_STOP
        if (id == KINGLET_STOP)
            break;
#endif
#if KINGLET_TOKENS
        {
            char text[KINGLET_TEXT];
            fwrite(text, 1, kinglet_decode(&state, id, text), stdout);
        }
#else
        printf(i ? " %lu" : "%lu", (unsigned long)id);
#endif
        fflush(stdout);
    }
#if KINGLET_TOKENS
    {
        char text[KINGLET_TEXT];
        fwrite(text, 1, kinglet_finish(&state, text), stdout);
    }
#endif
    putchar('\n');
    return 0;
}
#endif
