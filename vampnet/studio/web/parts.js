// What several scripts are made of: elements, waveforms, keys, a vamp in words and as a zip.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});

  studio.make = (tag, className, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  studio.button = (className, text, run, attributes = {}) => {
    const element = studio.make("button", className, text, { type: "button", ...attributes });
    element.addEventListener("click", run);
    return element;
  };

  // These children and no others. One that is in its place already is not touched: it keeps the focus, and its list stays open.
  studio.arrange = (box, children) => {
    for (const old of [...box.children]) if (!children.includes(old)) old.remove();
    children.forEach((one, i) => box.children[i] !== one && box.insertBefore(one, box.children[i] ?? null));
  };

  // Draws what is in a box anew. The focus goes to what is called as what had it, else to what `near` finds.
  studio.redraw = (box, draw, near = () => box.querySelector("button, a")) => {
    const nameOf = (one) => one.dataset.action || one.getAttribute("aria-label") || one.textContent;
    const focus = document.activeElement;
    const name = box.contains(focus) ? nameOf(focus) : null;
    draw();
    if (name === null || box.contains(document.activeElement)) return;
    const found = [...box.querySelectorAll("button, a")].find((one) => nameOf(one) === name) ?? near();
    found?.focus({ preventScroll: true });
  };

  // A slider from 0 to 1.
  studio.fader = (name, value, change) => {
    const element = studio.make("input", "vs-volume", "", { type: "range", min: 0, max: 100, "aria-label": name, title: name });
    element.value = Math.round(value * 100);
    element.addEventListener("input", () => change(element.value / 100));
    return element;
  };

  // Whether a key belongs to where it is pressed: to a field that somebody types in, or to a button that Space presses. A
  // button that only has the focus since it was clicked gives Space away.
  const PRESSED = "button, a, summary, input, audio, video, [role=tab], [role=button]";
  let clicked = null;
  function taken({ target, key }) {
    if (!(target instanceof Element)) return false;
    const fields = "textarea, select, [contenteditable]:not([contenteditable=false]), [role=textbox], [role=combobox]";
    if (target.closest(fields)) return true;
    const input = target.closest("input");
    if (input && !["range", "checkbox", "radio", "button"].includes(input.type)) return true;
    const own = target.closest(PRESSED);
    return key === " " && Boolean(own) && own.type !== "range" && own !== clicked;
  }

  // The key as its letter or digit, small, in every layout: where K gives л, κ or ㅏ, and where digits need Shift.
  studio.keyOf = ({ key, code }) => {
    if (/^[a-z0-9]$/i.test(key)) return key.toLowerCase();
    const [, letter] = /^[^\0-~]$/.test(key) ? /^Key(.)$/.exec(code) || [] : [];
    const [, digit] = /^Digit(.)$/.exec(code) || [];
    return letter?.toLowerCase() ?? digit ?? key;
  };

  // press(key) -> whether the key was of use. For the whole page.
  studio.keys = (press) => {
    document.addEventListener("pointerdown", ({ target }) => (clicked = target.closest(PRESSED)));
    let held = false; // a space that was of use must not press a button when it is let go
    document.addEventListener("keydown", (event) => {
      const { ctrlKey, altKey, metaKey, defaultPrevented, isComposing } = event;
      if (event.key === "Tab") clicked = null;
      if (ctrlKey || altKey || metaKey || defaultPrevented || isComposing || taken(event)) return;
      if (event.repeat ? held : press(studio.keyOf(event))) event.preventDefault();
      held = event.defaultPrevented;
    });
    document.addEventListener("keyup", (event) => {
      if (held && event.key === " ") event.preventDefault();
      held = false;
    });
  };

  // An element with properties, text and children; text is never markup.
  studio.element = (tag, options = {}, ...children) => {
    const { text, ...rest } = options;
    const made = Object.assign(document.createElement(tag), rest);
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  };

  // A number of buttons that each stand for a choice.
  studio.choices = (element, trigger, read) => {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) trigger("select", read(button.dataset));
    });
  };

  studio.bytes = (text, kind) => {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return new kind(out.buffer);
  };

  // A canvas as sharp as the screen; returns its context and its size in CSS pixels.
  studio.prepare = (canvas) => {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    const wide = Math.round(width * ratio);
    const high = Math.round(height * ratio);
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return { pen, width, height };
  };

  // A waveform; colour(i, n) gives that of column i.
  studio.drawWave = (pen, wave, left, top, width, height, colour) => {
    const n = wave.length / 2;
    const middle = top + height / 2;
    for (let x = 0; x < width; x++) {
      const first = Math.floor((x * n) / width);
      const last = Math.max(first + 1, Math.floor(((x + 1) * n) / width));
      let low = 127;
      let high = -128;
      for (let i = first; i < last && i < n; i++) {
        low = Math.min(low, wave[i]);
        high = Math.max(high, wave[n + i]);
      }
      pen.fillStyle = colour(x / width);
      const up = Math.max(0.5, (high / 127) * (height / 2));
      const down = Math.max(0.5, (-low / 127) * (height / 2));
      pen.fillRect(left + x, middle - up, 1, up + down);
    }
  };

  // Moves a position line while its track plays.
  studio.follow = (line, track, place) => {
    let moving = false;
    const step = () => {
      moving = studio.player.isPlaying(track());
      line.hidden = !moving;
      if (!moving) return;
      line.style.left = place(studio.player.position());
      requestAnimationFrame(step);
    };
    studio.player.onChange(line, () => moving || requestAnimationFrame(step));
  };

  // ---- zip -----------------------------------------------------------------------------------------------------------------

  const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });

  function checksum(bytes) {
    let sum = 0xffffffff;
    for (let i = 0; i < bytes.length; i++) sum = TABLE[(sum ^ bytes[i]) & 255] ^ (sum >>> 8);
    return (sum ^ 0xffffffff) >>> 0;
  }

  // Numbers of so many bytes each, the lowest byte first.
  function packed(...pairs) {
    const out = new DataView(new ArrayBuffer(pairs.reduce((sum, [, size]) => sum + size, 0)));
    let at = 0;
    for (const [value, size] of pairs) {
      if (size === 2) out.setUint16(at, value, true);
      else out.setUint32(at, value, true);
      at += size;
    }
    return out.buffer;
  }

  // [{name, url}] -> a Blob: an archive without compression, since sound has little to gain. One file at a time is in memory.
  studio.zip = async (files) => {
    const parts = [];
    const entries = [];
    let place = 0;
    const moment = new Date();
    const time = (moment.getHours() << 11) | (moment.getMinutes() << 5) | (moment.getSeconds() >> 1);
    const day = ((moment.getFullYear() - 1980) << 9) | ((moment.getMonth() + 1) << 5) | moment.getDate();
    for (const { name, url } of files) {
      const answer = await fetch(url);
      if (!answer.ok) throw new Error(studio.say("deck.gone"));
      const blob = await answer.blob();
      const title = new TextEncoder().encode(name);
      const sum = checksum(new Uint8Array(await blob.arrayBuffer()));
      // Version 2.0, names in UTF-8, stored; then what is the same in both headers.
      const { size } = blob;
      const shared = [[20, 2], [0x800, 2], [0, 2], [time, 2], [day, 2], [sum, 4], [size, 4], [size, 4], [title.length, 2]];
      parts.push(packed([0x04034b50, 4], ...shared, [0, 2]), title, blob);
      entries.push(packed([0x02014b50, 4], [20, 2], ...shared, [0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [place, 4]), title);
      place += 30 + title.length + size;
    }
    const size = entries.reduce((sum, part) => sum + part.byteLength, 0);
    const n = files.length;
    const end = packed([0x06054b50, 4], [0, 2], [0, 2], [n, 2], [n, 2], [size, 4], [place, 4], [0, 2]);
    return new Blob([...parts, ...entries, end], { type: "application/zip" });
  };

  // In words: a vamp, a take of it, and how it was made.
  studio.titleOf = ({ title, source }) => studio.say("deck.title", { title, source });
  studio.nameOf = ({ number }) => (number ? studio.say("deck.take", { number }) : studio.say("deck.source"));
  studio.storyOf = ({ settings: { kept_share, kept_kbps, sampling, seed, model } }) => {
    const share = 100 * kept_share;
    const digits = share === 0 || share === 100 || (share >= 1 && share <= 99) ? 0 : 1;
    return studio.say("deck.story", { share: share.toFixed(digits), kbps: kept_kbps.toFixed(1), steps: sampling.steps, seed, model });
  };

  // In words, where in a vamp it is `at` seconds into a track.
  studio.placeIn = ({ beats, downbeats, tempo }, at, seconds) => {
    const { say } = studio;
    // A beat counts a little before it sounds: at the very start of a loop it is already the first one.
    const passed = (times, from = -1) => times.filter((time) => time <= at + 0.06 && time >= from - 1e-3).length;
    const parts = [say("deck.clock", { at: at.toFixed(1), seconds: seconds.toFixed(1) })];
    const bar = passed(downbeats);
    if (beats.length) parts.push(say("deck.bar", { bar, beat: passed(beats, bar ? downbeats[bar - 1] : -1) }));
    if (tempo) parts.push(say("deck.tempo", { tempo: Math.round(tempo) }));
    return parts.join(" · ");
  };

  // Gives a Blob to the visitor as a file.
  studio.save = (blob, name) => {
    const link = studio.make("a", "", "", { download: name });
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
})();
