// OpenAI's client for Node, as its users call it: `node openai_node.mjs MODULES URL OPEN CANCELLED`. The last two are
// names in /metrics, of which OPEN may be several. It prints what held, a JSON object a line.
import { createRequire } from 'node:module'
import { strict as assert } from 'node:assert'

const [modules, url, OPEN, CANCELLED] = process.argv.slice(2)
const OpenAI = createRequire(`${modules}/`)('openai')
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
const write = (more = {}, options) =>
  client.completions.create({ model: 'text', prompt: 'Kari mote', max_tokens: 30, seed: 1, ...more }, options)
const talk = (more = {}) =>
  client.chat.completions.create({ model: 'chat', messages: [{ role: 'user', content: 'say 12' }], max_tokens: 20, seed: 1, ...more })

const metric = async names => {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split('\n')
  return names.split(',').reduce((sum, name) => {
    const line = lines.find(line => line.startsWith(`${name} `))
    assert.ok(line, `/metrics has no ${name}`)
    return sum + Number(line.split(' ').at(-1))
  }, 0)
}
const until = async (truth, ms, what) => {
  for (const begun = Date.now(); !(await truth()); ) assert.ok(Date.now() - begun < ms, `after ${ms} ms, not yet: ${what}`)
}

const checks = {
  'models are listed, and one is retrieved': async () => {
    const ids = []
    for await (const model of client.models.list()) ids.push(model.id)
    assert.deepEqual(ids.sort(), ['chat', 'pieces', 'text'])
    assert.equal((await client.models.retrieve('text')).object, 'model')
  },
  'a completion has its text, its reason and its usage': async () => {
    const answer = await write()
    assert.equal(answer.choices[0].text.length, 30)
    assert.equal(answer.choices[0].finish_reason, 'length')
    assert.equal(answer.usage.completion_tokens, 30)
  },
  'a stream has the text of the whole answer, and usage at its end': async () => {
    const whole = (await write()).choices[0].text
    let text = '', usage
    for await (const chunk of await write({ stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.text ?? ''
      usage = chunk.usage ?? usage
    }
    assert.equal(text, whole)
    assert.equal(usage.completion_tokens, 30)
  },
  'characters of several bytes come whole': async () => {
    for (let seed = 0; seed < 8; seed++) {
      const more = { model: 'pieces', prompt: 'bra ', seed, max_tokens: 60 }
      const whole = (await write(more)).choices[0].text
      let text = ''
      for await (const chunk of await write({ ...more, stream: true })) text += chunk.choices[0]?.text ?? ''
      assert.equal(text, whole)
    }
  },
  'n texts, stop strings and log-probabilities': async () => {
    const answer = await write({ n: 3, logprobs: 2 })
    assert.equal(new Set(answer.choices.map(choice => choice.text)).size, 3)
    for (const choice of answer.choices) assert.equal(choice.logprobs.tokens.join(''), choice.text)
    const text = answer.choices[0].text, stop = text.slice(8, 11)
    const cut = await write({ stop: [stop] })
    assert.equal(cut.choices[0].text, text.slice(0, text.indexOf(stop)))
    assert.equal(cut.choices[0].finish_reason, 'stop')
  },
  'a chat, whole and by its stream helper': async () => {
    const whole = await talk()
    assert.equal(whole.choices[0].message.role, 'assistant')
    const runner = client.chat.completions.stream({
      model: 'chat', messages: [{ role: 'user', content: 'say 12' }], max_tokens: 20, seed: 1,
    })
    const pieces = []
    runner.on('content', piece => pieces.push(piece))
    const last = await runner.finalChatCompletion()
    assert.equal(last.choices[0].message.content, whole.choices[0].message.content)
    assert.equal(pieces.join(''), whole.choices[0].message.content)
  },
  'faults are the classes that they are for': async () => {
    await assert.rejects(write({ temperature: -1 }), error => error instanceof OpenAI.BadRequestError && error.param === 'temperature')
    await assert.rejects(write({ model: 'none' }), error => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found')
    await assert.rejects(write({ suffix: 'x' }), error => error.code === 'unsupported_parameter')
    await assert.rejects(talk({ model: 'text' }), error => error.code === 'model_has_no_chat_template')
  },
  'an AbortController ends the text of a stream': async () => {
    const before = await metric(CANCELLED)
    const stop = new AbortController()
    const stream = await write({ stream: true, max_tokens: 60000 }, { signal: stop.signal })
    let chunks = 0
    // The iterator ends quietly once its own signal is aborted.
    for await (const _ of stream) if (++chunks === 3) stop.abort()
    await until(async () => (await metric(OPEN)) === 0, 1000, 'nothing is written any more')
    await until(async () => (await metric(CANCELLED)) === before + 1, 1000, 'it is counted')
  },
  'an AbortController ends a text that is waited for': async () => {
    const before = await metric(CANCELLED)
    const stop = new AbortController()
    const answer = write({ max_tokens: 65000 }, { signal: stop.signal })
    setTimeout(() => stop.abort(), 200)
    await assert.rejects(answer, error => error instanceof OpenAI.APIUserAbortError)
    await until(async () => (await metric(OPEN)) === 0, 1000, 'nothing is written any more')
    await until(async () => (await metric(CANCELLED)) === before + 1, 1000, 'it is counted')
  },
}

for (const [what, check] of Object.entries(checks)) {
  try {
    await check()
    console.log(JSON.stringify({ what, ok: true }))
  } catch (error) {
    console.log(JSON.stringify({ what, ok: false, note: `${error.stack}`.slice(0, 600) }))
  }
}
