// A process with transformers.js: `pipeline('text-generation')` on exported folders, as a page or a Node program runs them.
//   NODE_MODULES=... node transformers_js.mjs JOBS.json ANSWERS.json
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const package_ = path.join(process.env.NODE_MODULES, '@huggingface/transformers');
const { exports } = JSON.parse(fs.readFileSync(path.join(package_, 'package.json'), 'utf8'));
const entry = exports.node.import.default;
const { pipeline, env } = await import(pathToFileURL(path.join(package_, entry)).href);

const [jobs, answers] = process.argv.slice(2);
const out = [];
for (const job of JSON.parse(fs.readFileSync(jobs, 'utf8'))) {
  try {
    env.allowRemoteModels = false;
    env.localModelPath = path.dirname(job.folder) + path.sep;
    const pipe = await pipeline('text-generation', path.basename(job.folder), { dtype: job.dtype ?? 'fp32' });
    const [made] = await pipe(job.prompt, { max_new_tokens: job.tokens, do_sample: false });
    const ids = job.strings?.map((text) => Array.from(pipe.tokenizer.encode(text)));
    out.push({ text: made.generated_text, ids });
  } catch (error) {
    out.push({ failed: String(error), trace: String(error?.stack).slice(0, 1500) });
  }
}
fs.writeFileSync(answers, JSON.stringify(out));
