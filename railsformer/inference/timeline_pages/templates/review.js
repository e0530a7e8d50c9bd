"use strict";
// What a review is, without the page: items, decisions, tables. An item is
// {id, start, end, label, verdict, origin, modelLabel, modelScore, peak}: seconds; verdict pending, accepted or
// rejected; origin model, person or sampled (normal footage).
const Review = (() => {
  const SHORTEST_SECONDS = 0.1;

  const fromModel = (data) => data.events.map((event, index) => ({
    id: `m${index}`, start: event.start_seconds, end: event.end_seconds, label: event.label, verdict: "pending",
    origin: "model", modelLabel: event.label, modelScore: event.score, peak: event.peak_seconds,
  }));

  const overlap = (one, two) => Math.min(one.end, two.end) - Math.max(one.start, two.start);

  const sameEvent = (one, two) => one.modelLabel === two.modelLabel
    && overlap(one, two) > 0.5 * (Math.max(one.end, two.end) - Math.min(one.start, two.start));

  // Decisions of an earlier timeline of the same footage stay; the model's new events join those not yet judged.
  function restore(data, saved) {
    const fresh = fromModel(data);
    if (!saved || !Array.isArray(saved.items)) return { items: fresh, kept: 0 };
    if (saved.fingerprint === data.fingerprint) return { items: saved.items, kept: 0 };
    const judged = saved.items.filter((item) => item.verdict !== "pending")
      .map((item, index) => ({ ...item, id: `k${index}` }));
    const met = fresh.filter((item) => !judged.some((old) => sameEvent(old, item) || sameEvent({ ...old, modelLabel: item.modelLabel }, item)));
    return { items: [...judged, ...met], kept: judged.length };
  }

  const isNormal = (item) => item.origin === "sampled";

  function kindOf(item) {
    if (isNormal(item)) return "normal";
    if (item.verdict === "rejected") return "rejected";
    if (item.verdict === "pending") return "pending";
    if (item.origin === "person") return "added";
    return item.label === item.modelLabel ? "accepted" : "relabelled";
  }

  const clipped = (item, data) => ({
    ...item, start: Math.max(0, item.start), end: Math.min(item.end, data.duration_seconds),
  });

  const byStart = (one, two) => one.start - two.start || one.end - two.end;

  // One stretch for those of one label that overlap.
  function joined(items) {
    const stretches = [];
    for (const item of [...items].sort(byStart)) {
      const last = stretches.findLast((other) => other.label === item.label);
      if (last && item.start < last.end) last.end = Math.max(last.end, item.end);
      else stretches.push({ ...item });
    }
    return stretches;
  }

  // What of a stretch none of the others covers.
  function without(stretch, others, shortest) {
    let pieces = [stretch];
    for (const other of others) {
      pieces = pieces.flatMap((piece) => overlap(piece, other) <= 0 ? [piece] : [
        { ...piece, end: other.start }, { ...piece, start: other.end },
      ].filter((rest) => rest.end - rest.start >= shortest));
    }
    return pieces;
  }

  // Rows for training, and what stands in their way: two accepted events of two labels at one moment.
  function trainingRows(data, items) {
    const all = items.map((item) => clipped(item, data)).filter((item) => item.end - item.start >= SHORTEST_SECONDS);
    const yes = joined(all.filter((item) => item.verdict === "accepted" && !isNormal(item)));
    const pending = all.filter((item) => item.verdict === "pending");
    const problems = [];
    yes.forEach((one, index) => yes.slice(index + 1).forEach((two) => {
      if (one.label !== two.label && overlap(one, two) > 1e-6) problems.push([one, two]);
    }));
    const shortest = Math.min(1, data.window_seconds / 2);
    const taken = [...yes, ...pending];
    const no = [];
    for (const item of [...all.filter((one) => one.verdict === "rejected"), ...all.filter(isNormal)]) {
      no.push(...without({ ...item, label: data.negative_label }, [...taken, ...no], shortest));
    }
    const rows = [...yes, ...no].sort(byStart).map((item) => ({
      file_name: data.file_name, label: item.label, start_seconds: seconds(item.start), end_seconds: seconds(item.end),
      group: data.group, camera: data.camera, review: kindOf(item), model_label: item.modelLabel || "",
      model_score: item.modelScore === null || item.modelScore === undefined ? "" : String(item.modelScore),
    }));
    return { rows, problems };
  }

  // What really happened: accepted events of hazards.
  const truthRows = (data, items) => joined(items.map((item) => clipped(item, data)).filter((item) =>
    item.verdict === "accepted" && !isNormal(item) && data.hazards.includes(item.label))).sort(byStart)
    .map((item) => ({
      video: data.file_name, label: item.label, start_seconds: seconds(item.start), end_seconds: seconds(item.end),
    }));

  const seconds = (value) => String(Math.round(value * 1000) / 1000);

  const cell = (text) => /[",;\t\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

  const csv = (columns, rows) => [columns, ...rows.map((row) => columns.map((name) => row[name]))]
    .map((cells) => cells.map((text) => cell(String(text))).join(",") + "\n").join("");

  // Stretches of one window each in which nothing is, at least half a window from any item: spread evenly, or where
  // the hazards score highest (the hardest for the model).
  function normalStretches(data, items, count, how) {
    const long = data.window_seconds, margin = long / 2;
    const busy = [
      ...items.map((item) => ({ start: item.start - margin, end: item.end + margin })),
      ...[...data.not_scored, ...data.blind].map(([start, end]) => ({ start, end })),
    ];
    const places = [];
    const free = without({ start: 0, end: data.duration_seconds }, busy.sort(byStart), long);
    for (const gap of free) {
      const fit = Math.floor((gap.end - gap.start) / long + 1e-9);
      for (let place = 0; place < fit; place += 1) {
        const start = gap.start + place * long;
        places.push({ start, end: start + long });
      }
    }
    let chosen = places;
    if (places.length > count && how === "hardest") {
      const peaks = highestScores(data, places);
      chosen = places.map((place, index) => [peaks[index], place]).sort((one, two) => two[0] - one[0])
        .slice(0, count).map(([, place]) => place);
    } else if (places.length > count) {
      chosen = Array.from({ length: count }, (_, index) => places[Math.floor((index + 0.5) * places.length / count)]);
    }
    return chosen.sort(byStart).map((place) => ({
      ...place, label: data.negative_label, verdict: "accepted", origin: "sampled", modelLabel: "", modelScore: null,
      peak: place.start,
    }));
  }

  function highestScores(data, places) {
    const lanes = Object.values(data.scores);
    const peaks = places.map(() => -1);
    let place = 0;
    data.times.forEach((at, index) => {
      while (place < places.length - 1 && at >= places[place].end) place += 1;
      if (!places.length || at < places[place].start || at >= places[place].end) return;
      for (const lane of lanes) peaks[place] = Math.max(peaks[place], lane[index] ?? -1);
    });
    return peaks;
  }

  return { SHORTEST_SECONDS, fromModel, restore, kindOf, isNormal, trainingRows, truthRows, csv, normalStretches, byStart };
})();
if (typeof module !== "undefined") module.exports = Review;
