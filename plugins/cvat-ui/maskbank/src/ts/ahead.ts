const MOST_AHEAD = 8; // outlined frames that the tracker learns ahead: it reads each of them on every frame

/**
 * Of outlined frames those that the tracker learns ahead, before objects are tracked from one of them: evenly spread.
 * `ahead` of the Python package is the same; tests/cases/ahead.json holds both to it.
 */
export function ahead(frame: number, outlined: Iterable<number>): number[] {
    const others = [...new Set(outlined)].filter((each) => each !== frame).sort((a, b) => a - b);
    const count = Math.min(others.length, MOST_AHEAD);
    return Array.from({ length: count }, (_, i) => others[Math.floor(((2 * i + 1) * others.length) / (2 * count))]!);
}
