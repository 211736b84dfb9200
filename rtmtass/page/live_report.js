// What the audio thread reports, by place: live_worklet.js writes it, live_stats.js reads it.

export const FRAME = 0; // of the context, when it was sent
export const HOPS = 1; // separated since the start
export const BUSY_MS = 2; // spent separating since the start
export const LONGEST_MS = 3; // of one call
export const LATE_HOPS = 4; // that took longer than they last
export const MIXTURE_CLIPPED = 5; // 1 if it reached full scale in the last seconds
export const OUTPUT_CLIPPED = 6;
export const NEW_HOPS = 7; // hops of stems that came with the report
export const LEVELS = 8; // from here on Stream.levels(), then power and peak of each stem before
// its gain
