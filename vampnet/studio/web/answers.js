// A visitor on a bad line loses nothing. Gradio's client loads the page anew where a question cannot be sent, and waits for ever
// for an answer of the queue
// - in a stream that ended without its last word, or fell silent: such a stream breaks here, which the client understands;
// - in a stream that the server has closed, since nothing was missing, when the browser reads of that only after the next question
//   was taken: the next question opens a stream, in which all comes that is missing, so an empty one is asked.
(() => {
  "use strict";
  const WAIT = 1000; // what is on its way may still come
  const SILENCE = 40000; // the server says something every 15 s
  const TRIES = 20; // a minute and a half
  const CLOSED = '"msg":"close_stream"';
  const missing = new Set(), early = new Set(), streams = new Set();
  const plain = window.fetch;
  const sleep = (time) => new Promise((then) => setTimeout(then, time));

  async function send(input, init) {
    for (let tries = 1; ; tries++) {
      try {
        return await plain(input, init);
      } catch (error) {
        if (tries === TRIES || error.name === "AbortError") throw error;
        await sleep(Math.min(1000 * tries, 5000));
      }
    }
  }

  function ask() {
    if (!missing.size || streams.size) return;
    missing.clear();
    document.querySelector("#answers")?.click();
  }

  // A question was taken; its answer may have been faster than this.
  function taken({ event_id: id }) {
    if (early.delete(id)) return;
    missing.add(id);
    setTimeout(ask, WAIT);
  }

  function read(message) {
    const [, id] = /^data: {"msg":"process_completed","event_id":"([^"]+)"/.exec(message) || [];
    if (id && !missing.delete(id)) early.add(id);
  }

  // The stream as it is, but that it breaks where it should go on and does not.
  function watched(response) {
    const reader = response.body.getReader(), decoder = new TextDecoder(), stream = {};
    let rest = "", closed = false;
    const over = () => streams.delete(stream) && setTimeout(ask, WAIT);
    streams.add(stream);
    const body = new ReadableStream({
      async pull(to) {
        let timer = 0;
        const silence = new Promise((_, fail) => (timer = setTimeout(() => fail(new TypeError("The stream is silent")), SILENCE)));
        try {
          const part = await Promise.race([reader.read(), silence]);
          if (part.done && !closed) throw new TypeError("The stream has ended too early");
          if (part.done) return over(), to.close();
          const messages = (rest + decoder.decode(part.value, { stream: true })).split("\n\n");
          rest = messages.pop();
          messages.forEach(read);
          closed = messages.some((message) => message.includes(CLOSED));
          to.enqueue(part.value);
        } catch (error) {
          over();
          reader.cancel().catch(() => {});
          to.error(error);
        } finally {
          clearTimeout(timer);
        }
      },
      cancel: (why) => (over(), reader.cancel(why)),
    });
    return new Response(body, { status: response.status, headers: response.headers });
  }

  window.fetch = (input, init) => {
    const path = String(input.url ?? input).split("?")[0];
    if (path.endsWith("/queue/data")) return plain(input, init).then((given) => (given.ok && given.body ? watched(given) : given));
    if (!/\/(queue\/join|run\/[^/]*)$/.test(path)) return plain(input, init);
    const response = send(input, init);
    if (path.endsWith("/queue/join")) {
      response.then((given) => given.ok && given.clone().json().then(taken)).catch(() => {});
    }
    return response;
  };
})();
