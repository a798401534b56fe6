// Plays several loops in sync: decoded once, begun at one sample of the audio clock, each through a gain of its own.
// Needs run.js. A track is {sound, start, end, seconds, alias}: the path of its file; where in it the loop begins and ends, in
// seconds (0, 0 = the whole file); its length in seconds; and perhaps another track that is the same music.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const RATE = 44100;
  // Seconds from a key to what it changes: the audio thread is up to this far ahead of what a script is told of it.
  const AHEAD = 0.03;
  const MARGIN = 0.012; // what must be left of it when a voice was told to begin: a late one would be out of phase
  const EASE = 0.006; // seconds: time constant of the master volume
  let most = 1500; // seconds of decoded sound that are held: 530 MB

  const modulo = (a, n) => ((a % n) + n) % n;

  // ---- what is decoded -----------------------------------------------------------------------------------------------------

  let context = null;
  let master = null;
  let loudness = 1;
  let address = (path) => "gradio_api/file=" + path.split("/").map(encodeURIComponent).join("/").replace(/%3A/g, ":");
  const store = new Map(); // key -> {promise, buffer}, the one used last at the end

  const keyOf = (track) => (track ? `${track.sound}|${track.start || 0}|${track.end || 0}` : null);

  function open() {
    if (context) return context.resume();
    context = new AudioContext({ sampleRate: RATE });
    master = context.createGain();
    master.gain.value = loudness;
    master.connect(context.destination);
    return context.resume();
  }

  // Also where a call or the lock screen has taken the sound away.
  function wake() {
    // Else an iPhone whose ring switch is off plays nothing. While the microphone is open this says otherwise.
    if (navigator.audioSession?.type === "auto") navigator.audioSession.type = "playback";
    open();
  }

  // Safari gives sound to what a hand has opened, and what is heard may come later than the hand: with an answer of the server.
  const hands = ["pointerup", "keydown"];
  async function unlock() {
    await open();
    if (!playing) context.suspend(); // nothing runs until something is heard
    for (const name of hands) window.removeEventListener(name, unlock, true);
  }
  for (const name of hands) window.addEventListener(name, unlock, true);
  document.addEventListener("visibilitychange", () => playing && !document.hidden && wake());

  async function fetchSound(track) {
    const answer = await fetch(address(track.sound)).catch(() => null);
    const bytes = answer && answer.ok ? await answer.arrayBuffer() : new ArrayBuffer(0);
    const whole = await context.decodeAudioData(bytes).catch(() => {
      throw new Error(studio.say ? studio.say("deck.gone") : `${track.sound} could not be loaded.`);
    });
    const first = Math.round((track.start || 0) * RATE);
    const last = track.end ? Math.min(whole.length, Math.round(track.end * RATE)) : whole.length;
    if (first === 0 && last === whole.length) return whole;
    const part = context.createBuffer(whole.numberOfChannels, last - first, RATE);
    for (let c = 0; c < whole.numberOfChannels; c++) part.copyToChannel(whole.getChannelData(c).subarray(first, last), c);
    return part;
  }

  function decode(track) {
    let entry = store.get(track.key);
    if (entry) store.delete(track.key);
    else {
      entry = { promise: fetchSound(track), buffer: null };
      entry.promise.then(
        (buffer) => {
          entry.buffer = buffer;
          forget();
        },
        () => store.get(track.key) === entry && store.delete(track.key)
      );
    }
    store.set(track.key, entry);
    return entry.promise;
  }

  // What was not used for longest goes when too much is held, but nothing that is heard.
  function forget() {
    const needed = new Set(tracks.filter((one, i) => i === heard || i === wanted || one.solo).map((one) => one.key));
    let seconds = 0;
    for (const [key, { buffer }] of [...store].reverse()) {
      seconds += buffer ? buffer.duration : 0;
      if (seconds <= most || needed.has(key) || !buffer) continue;
      store.delete(key);
      if (run) run.drop(key, soon());
    }
  }

  // ---- transport -----------------------------------------------------------------------------------------------------------

  let tracks = [];
  let owner = null;
  let grid = { beats: [], downbeats: [] };
  let heard = 0;
  let wanted = null; // the index that was asked for and is not heard yet
  let pending = null; // the sample at which it will be, where it waits for the beat or the bar
  let due = 0; // the timer that makes it the heard one
  let playing = false;
  let run = null;
  let frames = null; // of what was heard when other tracks were loaded, in samples
  let rest = 0; // samples that have passed, where it is paused
  let loading = Promise.resolve();
  let joining = Promise.resolve();
  let loads = 0;
  let asked = 0; // counts what was asked for, so that something slow does not undo something newer
  const listeners = new Map(); // function -> the element it serves

  function tell() {
    for (const [listener, { isConnected }] of [...listeners]) isConnected ? listener() : listeners.delete(listener);
  }

  const soon = (lead = AHEAD) => Math.ceil((context.currentTime + lead) * RATE);
  const inTime = (frame) => frame / RATE - context.currentTime >= MARGIN;
  const names = (track) => [keyOf(track), keyOf(track.alias)].filter(Boolean);
  const alike = (one, other) => names(one).some((name) => names(other).includes(name));
  const find = (track) => (track ? tracks.findIndex((one) => alike(one, track)) : -1);

  // Several at once are averaged: they never clip.
  function levelOf(index, chosen = heard, alone = false) {
    const track = tracks[index];
    const together = alone ? [] : tracks.filter((other) => other.solo && !other.muted);
    const soloed = !alone && tracks.some((other) => other.solo);
    if (track.muted || (soloed ? !track.solo : index !== chosen)) return 0;
    return track.volume ** 2 / Math.max(1, together.length);
  }

  // At a sample, or as soon as all that is to be heard has begun; then those of what waits for the beat or the bar.
  function applyLevels(frame = soon()) {
    if (!run) return;
    const levels = tracks.map((_, i) => levelOf(i));
    const at = Math.max(frame, ...tracks.map((track, i) => (levels[i] ? run.from(track.key) : 0)));
    tracks.forEach((track, i) => run.level(track.key, levels[i], at));
    if (pending !== null) tracks.forEach((track, i) => run.level(track.key, levelOf(i, wanted, true), Math.max(pending, at)));
  }

  // Lets those tracks that are decoded run along, unheard. One call after the other: none begins twice.
  const join = (...list) => (joining = joining.catch(() => {}).then(() => joinNow(list)));

  async function joinNow(list) {
    for (let lead = AHEAD; run && lead < 2; lead *= 2) {
      const current = run;
      const fresh = list.filter(({ key }) => tracks.some((one) => one.key === key) && store.get(key)?.buffer && !run.has(key));
      if (!fresh.length) return;
      for (const { key } of fresh) current.add(key, store.get(key).buffer);
      await studio.whenConnected(context);
      if (run !== current) continue;
      const frame = soon(lead);
      for (const { key } of fresh) run.start(key, 0, frame);
      if (!inTime(frame) && lead < 1) for (const { key } of fresh) run.drop(key, frame);
    }
  }

  // All others too, unless there is more of them than may be held: then only what is heard.
  function joinOthers() {
    if (tracks.reduce((sum, track) => sum + (track.seconds || 0), 0) > most) return;
    const current = run;
    for (const track of tracks) {
      decode(track).then(() => run && run === current && tracks.includes(track) && join(track), () => {});
    }
  }

  // A new run, of which so many samples have passed (null: as many as of the old one, which gives way to it), unless it is no
  // longer wanted once it could begin.
  async function begin(passed, isWanted) {
    for (let lead = AHEAD; ; lead *= 2) {
      const made = studio.makeRun(context, master);
      const ready = tracks.filter(({ key }) => store.get(key)?.buffer);
      for (const { key } of ready) made.add(key, store.get(key).buffer);
      await studio.whenConnected(context);
      if (!isWanted()) return made.discard();
      const frame = soon(lead);
      made.open(passed === null ? run.origin : frame - passed, frame);
      for (const track of ready) made.start(track.key, levelOf(tracks.indexOf(track)), frame);
      if (inTime(frame) || lead > 1) {
        if (run) run.end(frame);
        run = made;
        return;
      }
      made.discard();
    }
  }

  // From where it was paused, or from a share of the heard track's length.
  async function play(share = null) {
    if (!tracks.length) return;
    settle(true);
    const ask = ++asked;
    const those = tracks;
    playing = true;
    wake();
    tell();
    try {
      const buffers = await Promise.all(tracks.filter((track, i) => i === heard || track.solo).map(decode));
      if (ask !== asked || !playing) return;
      const length = store.get(tracks[heard].key)?.buffer?.length || buffers[0].length;
      const passed = share === null ? (run ? null : rest) : Math.round(share * length);
      await begin(passed, () => ask === asked && playing && tracks === those);
      if (ask !== asked || !playing) return;
      if (tracks !== those) return play(share);
      joinOthers();
    } catch (error) {
      if (ask === asked) stop();
      throw error;
    } finally {
      tell();
    }
  }

  function pause() {
    settle(true);
    asked++;
    playing = false;
    if (run) {
      const frame = soon();
      rest = frame - run.origin;
      run.end(frame);
      run = null;
    }
    tell();
  }

  function stop() {
    pause();
    rest = 0;
  }

  // The sample at which the next beat or bar begins, from `first` on; `first` where there are none.
  function nextFrame(when, first) {
    const frames = run.frames(tracks[heard].key);
    const times = when === "bar" ? (grid.downbeats.length ? grid.downbeats : [0]) : grid.beats;
    if (when === "now" || !times.length || !frames) return first;
    const passed = modulo(first - run.origin, frames);
    const places = times.map((time) => Math.round(time * RATE)).filter((place) => place < frames);
    const next = places.find((place) => place >= passed);
    return first - passed + (next === undefined ? frames + places[0] : next);
  }

  function arrive() {
    heard = wanted;
    wanted = pending = null;
    tracks.forEach((track) => (track.solo = false));
    tell();
  }

  // What was asked for waits no longer; if it is `taken`, it is the heard one.
  function settle(taken = false) {
    clearTimeout(due);
    if (wanted === null) return;
    if (run) run.cancel(soon());
    if (taken) arrive();
    wanted = pending = null;
  }

  // One track alone, at once ("now"), on the next "beat" or the next "bar"; if nothing plays, it begins to.
  async function hear(index, when = "now") {
    if (!tracks[index]) return;
    settle();
    wake();
    const ask = ++asked;
    await loading.catch(() => {});
    if (ask !== asked) return;
    if (!playing || !run) {
      heard = index;
      tracks.forEach((track) => (track.solo = false));
      return play();
    }
    const track = tracks[index];
    wanted = index;
    tell();
    try {
      await decode(track);
    } catch (error) {
      if (ask === asked) wanted = null;
      tell();
      throw error;
    }
    // Where other tracks were loaded meanwhile, `load` has seen to what was wanted: it may have another place.
    const stale = () => ask !== asked || !run || tracks[wanted]?.key !== track.key;
    if (stale()) return;
    await join(tracks[wanted]);
    if (stale()) return;
    const frame = nextFrame(when, Math.max(soon(), run.from(track.key)));
    tracks.forEach((other, i) => run.level(other.key, levelOf(i, wanted, true), frame));
    if (when === "now") return arrive();
    pending = frame;
    due = setTimeout(arrive, Math.max(0, (frame / RATE - context.currentTime) * 1000));
  }

  // Other tracks in the place of those there are. Those in both play on; while it plays, a new one joins in phase, and one as
  // long as what was heard goes on at the same place. Options: owner (whose they are), beats, downbeats (seconds), heard.
  function load(list, options = {}) {
    const before = new Map(tracks.map((track) => [track.key, track]));
    // What was asked for waits on for its beat or bar, if both are there and nobody says what is to be heard.
    const place = (index) => list.findIndex((given) => keyOf(given) === tracks[index].key);
    const stays = run && wanted !== null && options.heard === undefined && place(heard) >= 0 ? place(wanted) : -1;
    const last = tracks[stays >= 0 ? heard : (wanted ?? heard)];
    // What is to be heard may not run yet, where others are loaded while it is decoded: as long as what runs until then.
    frames = run && (run.frames(tracks[heard].key) ?? frames);
    if (stays < 0) settle();
    tracks = list.map((given) => {
      const { volume = 1, muted = false, solo = false } = before.get(keyOf(given)) || {};
      return { ...given, key: keyOf(given), volume, muted, solo };
    });
    owner = options.owner ?? null;
    grid = { beats: options.beats || [], downbeats: options.downbeats || [] };
    const same = last ? tracks.findIndex((track) => alike(track, last)) : -1;
    heard = options.heard ?? (same >= 0 ? same : Math.max(0, Math.min(heard, tracks.length - 1)));
    if (stays >= 0) wanted = stays;
    if (!run && same < 0) rest = 0;
    tell();
    loading = run ? replace(run, ++loads) : Promise.resolve();
    return run || !playing ? loading : play();
  }

  // The second half of it: the new tracks take over from the old ones.
  async function replace(old, load) {
    try {
      const buffer = await decode(tracks[heard]);
      if (load !== loads || run !== old) return;
      if (buffer.length === frames) {
        await join(...tracks);
        if (load !== loads || run !== old) return;
        const frame = Math.max(soon(), run.from(tracks[heard].key));
        applyLevels(frame);
        for (const key of run.keys()) if (!tracks.some((track) => track.key === key)) run.drop(key, frame);
      } else await begin(0, () => load === loads && run === old);
      if (load !== loads) return;
      joinOthers();
      tell();
    } catch (error) {
      if (load === loads) stop();
      throw error;
    }
  }

  // A track by itself, of the deck or not: what the picture of the source plays.
  async function start(track, share = null) {
    if (find(track) < 0) await load([track]);
    const index = find(track);
    if (index < 0) return;
    if (share === null) return hear(index);
    settle();
    heard = index;
    tracks.forEach((other) => (other.solo = false));
    return play(share);
  }

  async function change(index, what, value) {
    const track = tracks[index];
    if (!track) return;
    track[what] = value;
    if (what === "solo" && value && run) {
      await decode(track);
      await join(track);
    }
    applyLevels();
    tell();
  }

  function setMaster(value) {
    loudness = value ** 2;
    if (master) master.gain.setTargetAtTime(loudness, context.currentTime + AHEAD, EASE);
    tell();
  }

  // Where a track's loop is, 0 to 1, as it comes out of the loudspeaker.
  function position(index = heard) {
    const track = tracks[index];
    const buffer = track && store.get(track.key)?.buffer;
    const frames = buffer ? buffer.length : Math.round((track?.seconds || 0) * RATE);
    if (!frames) return 0;
    if (!run) return modulo(rest, frames) / frames;
    return modulo((context.currentTime - (context.outputLatency || 0)) * RATE - run.origin, frames) / frames;
  }

  studio.player = {
    load, hear, play, pause, stop, start, position,
    mute: (index, on) => change(index, "muted", on),
    solo: (index, on) => change(index, "solo", on),
    volume: (index, value) => change(index, "volume", value), // 0 to 1
    master: setMaster, // 0 to 1
    state: () => ({ tracks, owner, heard, wanted, playing, running: run !== null, loudness: Math.sqrt(loudness) }),
    isWanted: (track) => playing && find(track) >= 0 && find(track) === (wanted ?? heard),
    isPlaying: (track) => run !== null && find(track) >= 0 && find(track) === heard,
    onChange: (element, listener) => listeners.set(listener, element),
    address: (path) => address(path),
    setAddress: (found) => (address = found), // path -> URL, for pages that are not Gradio's
    hold: (seconds) => (most = seconds), // of decoded sound, at most
    output: () => ({ context, node: master, run }), // for who wants to look at or record what is heard
  };
})();
