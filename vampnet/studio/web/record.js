// The recorder: tempo, metre and bars, a count-in, a level meter, and a recording of whole bars that becomes the source.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const AHEAD = 0.15; // seconds before the first click, so that none is late
  const STOP_SLACK = 0.25; // of a bar: who stops this little after a bar line meant the bar line
  const TRIES = 5; // to send what was recorded
  const say = (key, values) => studio.say(`record.${key}`, values);

  const make = (...given) => studio.element(...given);

  function field(key, input) {
    input.title = say(`${key}.hint`);
    input.name = `record-${key}`;
    return make("label", { className: "vs-field", title: say(`${key}.hint`) }, make("span", { text: say(key) }), input);
  }

  const choice = (values, chosen) => {
    const select = make("select");
    for (const [value, text] of values) select.append(make("option", { value, text, selected: value === chosen }));
    return select;
  };

  // Taps -> beats a minute, by the median of the last distances; null before the second tap.
  function tapper() {
    let taps = [];
    return (now) => {
      if (taps.length && now - taps[taps.length - 1] > 2500) taps = [];
      taps = [...taps, now].slice(-9);
      const gaps = taps.slice(1).map((tap, i) => tap - taps[i]).sort((a, b) => a - b);
      return gaps.length ? 60000 / gaps[Math.floor(gaps.length / 2)] : null;
    };
  }

  function layout(root, limits) {
    const tempo = make("input", { type: "number", min: limits.low, max: limits.high, step: "any", value: 120, inputMode: "decimal" });
    const tap = make("button", { type: "button", className: "vs-play", text: say("tap"), title: say("tap.hint") });
    const follow = make("button", { type: "button", className: "vs-play", text: say("follow"), title: say("follow.hint"), disabled: true });
    const metre = choice(limits.metres.map((n) => [String(n), String(n)]), "4");
    const lengths = ["1", "2", "4", "8", "16"].map((n) => [n, say(n === "1" ? "bar" : "bars", { count: n })]);
    const bars = choice([...lengths, ["0", say("open")]], "4");
    const clicks = make("input", { type: "checkbox", checked: true });
    const latency = make("input", { type: "number", min: 0, max: 1000, step: 1, placeholder: say("automatic") });
    const timing = make("details", {}, make("summary", { text: say("timing") }), field("latency", latency));
    const button = make("button", { type: "button", className: "vs-play vs-rec", text: say("start") });
    const meter = make("div", { className: "vs-level" }, make("i"));
    meter.setAttribute("role", "meter");
    meter.setAttribute("aria-label", say("level"));
    for (const [name, value] of [["min", -60], ["max", 0], ["now", -60]]) meter.setAttribute(`aria-value${name}`, value);
    const line = make("p", { className: "vs-aside vs-rec-line", text: say("ready") });
    line.setAttribute("role", "status");
    const beats = make("div", { className: "vs-beats" });
    beats.setAttribute("aria-hidden", "true");
    root.append(
      make("div", { className: "vs-rec-row" }, field("tempo", tempo), tap, follow, field("metre", metre), field("length", bars)),
      make("div", { className: "vs-rec-row" }, button, meter, beats),
      line,
      make("div", { className: "vs-rec-row" }, make("label", { className: "vs-check", title: say("clicks.hint") }, clicks, say("clicks")), timing)
    );
    return { tempo, tap, follow, metre, bars, clicks, latency, button, meter, line, beats };
  }

  studio.recorder = (element, props, watch, trigger, upload) => {
    const limits = props.limits;
    const parts = layout(element.querySelector(".vs-recorder"), limits);
    const { tempo, tap, follow, metre, bars, clicks, latency, button, meter, line, beats } = parts;
    const settings = [tempo, tap, metre, bars, clicks, latency];
    const tapped = tapper();
    let now = null; // the recording that goes on

    const tell = (text, wrong = false) => {
      line.textContent = text;
      line.setAttribute("role", wrong ? "alert" : "status");
      line.classList.toggle("vs-wrong", wrong);
    };
    const offer = () => {
      const found = props.value && props.value.tempo;
      follow.disabled = !found || now !== null;
      follow.textContent = found ? say("follow.tempo", { tempo: found }) : say("follow");
    };
    const free = (on) => {
      for (const one of settings) one.disabled = !on;
      offer();
    };

    tap.addEventListener("click", (event) => {
      const found = tapped(event.timeStamp);
      if (found) tempo.value = Math.round(Math.min(limits.high, Math.max(limits.low, found)) * 10) / 10;
    });
    follow.addEventListener("click", () => {
      tempo.value = props.value.tempo;
      if ([...metre.options].some((option) => option.value === String(props.value.metre))) metre.value = props.value.metre;
    });
    watch("value", offer);

    // ---- a recording -------------------------------------------------------------------------------------------------------

    function asked() {
      const bpm = Number(tempo.value);
      if (!(bpm >= limits.low && bpm <= limits.high)) throw new Error(say("bad.tempo", { low: limits.low, high: limits.high }));
      const bar = (Number(metre.value) * 60) / bpm;
      const most = Math.floor(limits.seconds / bar);
      if (Number(bars.value) > most) throw new Error(say("bad.length", { count: most }));
      return { bpm, metre: Number(metre.value), bars: Number(bars.value), bar, most };
    }

    const why = (error) => {
      const known = { NotAllowedError: "denied", NotFoundError: "none", NotReadableError: "busy", SecurityError: "insecure" }[error.name];
      return known ? say(`bad.${known}`) : error.message || String(error);
    };

    async function start() {
      let job = null;
      try {
        job = asked();
      } catch (error) {
        return tell(error.message, true);
      }
      now = job;
      free(false);
      button.textContent = say("stop");
      button.classList.add("vs-on");
      tell(say("asking"));
      if (studio.player) studio.player.stop();
      try {
        Object.assign(job, await studio.tape.open());
      } catch (error) {
        return finish(why(error), true);
      }
      if (now !== job) return job.close(); // stopped while the browser was asking
      run(job);
    }

    function run(job) {
      const { context } = job;
      job.blocks = [];
      job.peak = 0;
      job.begin = context.currentTime + AHEAD; // of the count-in
      job.first = job.begin + job.bar; // of the first bar
      job.beat = 0;
      job.stream.getAudioTracks()[0].addEventListener("ended", () => now === job && finish(say("bad.gone"), true));
      const typed = latency.value === "" ? NaN : Number(latency.value);
      job.late = Number.isFinite(typed) ? Math.max(0, Math.min(1, typed / 1000)) : studio.tape.latency(job);
      if (latency.value === "") latency.placeholder = String(Math.round(job.late * 1000));
      job.from = Math.round((job.first + job.late) * context.sampleRate);
      job.tape.port.onmessage = ({ data }) => now === job && take(job, data);
      beats.replaceChildren(...Array.from({ length: job.metre }, () => make("i")));
      job.timer = setInterval(() => step(job), 25);
    }

    const frames = (job, count) => Math.round(count * job.bar * job.context.sampleRate);

    function take(job, block) {
      for (const channel of block.channels) for (const value of channel) job.peak = Math.max(job.peak, Math.abs(value));
      const end = block.frame + block.channels[0].length;
      if (end <= job.from) return;
      job.blocks.push(block);
      if (job.bars && end >= job.from + frames(job, job.bars)) keep(job);
      else if (end >= job.from + frames(job, job.most)) stop();
    }

    // Clicks a little ahead, the words, the lamps and the level.
    function step(job) {
      const { context } = job;
      const length = job.bar / job.metre;
      for (let at; (at = job.begin + job.beat * length) < context.currentTime + 0.2; job.beat++) {
        const counting = job.beat < job.metre;
        const over = job.bars && job.beat >= job.metre * (job.bars + 1);
        if (!over && (counting || clicks.checked)) studio.tape.click(context, Math.max(at, context.currentTime), job.beat % job.metre === 0);
      }
      const beat = Math.floor((context.currentTime - job.begin) / length);
      if (beat !== job.lamp && beat >= 0) {
        job.lamp = beat;
        [...beats.children].forEach((lamp, i) => lamp.classList.toggle("vs-lit", i === beat % job.metre));
        const bar = Math.floor(beat / job.metre);
        if (bar === 0) tell(say("counting", { beat: (beat % job.metre) + 1 }));
        else if (job.bars) tell(say("going", { bar: Math.min(bar, job.bars), count: job.bars }));
        else tell(say("going.open", { bar }));
      }
      const level = Math.max(-60, 20 * Math.log10(job.peak + 1e-9));
      meter.firstChild.style.width = `${((level + 60) / 60) * 100}%`;
      meter.classList.toggle("vs-hot", level > -1);
      meter.setAttribute("aria-valuenow", Math.round(level));
      job.peak *= 0.8;
    }

    // Ends on a bar line: the one just passed, else the one to come. Before the first bar there is nothing to keep.
    function stop() {
      const job = now;
      if (!job) return;
      const passed = job.context ? (job.context.currentTime - job.first) / job.bar : -1;
      if (passed < 0) return finish(say("ready"));
      const whole = Math.max(1, Math.floor(passed) + (passed % 1 > STOP_SLACK ? 1 : 0));
      job.bars = Math.min(whole, job.bars || job.most, job.most);
      const last = job.blocks[job.blocks.length - 1];
      if (last && last.frame + last.channels[0].length >= job.from + frames(job, job.bars)) keep(job);
    }

    async function keep(job) {
      const rate = job.context.sampleRate;
      const count = frames(job, job.bars);
      const sound = studio.tape.wav(studio.tape.cut(job.blocks, job.from, count), rate);
      quiet(job);
      job.blocks = [];
      tell(say("sending"));
      const send = async () => {
        for (let tries = 1; ; tries++) {
          try {
            return await upload(new File([sound], "recording.wav", { type: "audio/wav" }));
          } catch (error) {
            if (tries === TRIES) throw error;
            await new Promise((then) => setTimeout(then, 2000 * tries)); // it cannot be played again
          }
        }
      };
      try {
        const { path } = await send();
        trigger("upload", { path, bpm: job.bpm, metre: job.metre, bars: job.bars });
        // Whether it can be used, the line about the source tells.
        finish(say(job.bars === 1 ? "done.one" : "done", { count: job.bars, tempo: job.bpm, seconds: (job.bars * job.bar).toFixed(2) }));
        button.textContent = say("again");
      } catch (error) {
        finish(say("bad.sending"), true);
      }
    }

    function quiet(job) {
      clearInterval(job.timer);
      if (job.tape) job.tape.port.onmessage = null;
      if (job.close && job.context.state !== "closed") job.close();
    }

    function finish(text, wrong = false) {
      if (now) quiet(now);
      now = null;
      free(true);
      button.textContent = say("start");
      button.classList.remove("vs-on");
      beats.replaceChildren();
      meter.firstChild.style.width = "0";
      meter.setAttribute("aria-valuenow", -60);
      tell(text, wrong);
    }

    button.addEventListener("click", () => (now ? stop() : start()));
    offer();
  };
})();
