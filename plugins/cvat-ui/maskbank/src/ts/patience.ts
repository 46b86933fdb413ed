/**
 * A tracker that is busy, or starts anew, answers again after a while: its requests are sent again meanwhile. The same
 * request gets the same answer, so nothing is done twice.
 *
 * CVAT's server passes on the function's status. It answers 503 where it cannot reach the function, and 504 where it has
 * waited too long; without a status, the browser has not reached CVAT. Headers such as Retry-After do not come through.
 */
const BUSY: ReadonlySet<number> = new Set([0, 408, 429, 502, 503, 504]);
const BUSY_FOR_MS = 5 * 60_000;

// While a function is replaced, Nuclio's dashboard answers 500, as the function does where it fails for good.
const UNCLEAR = 500;
const UNCLEAR_FOR_MS = 30_000;

const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [1000, 10_000];
const LOOK_EVERY_MS = 200; // whether it was cancelled

export interface Waiting {
    cancelled(): boolean;
    onWait(): void; // before each pause
}

/** The annotator cancelled while the tracker was waited for. */
export class Cancelled extends Error {}

/**
 * The answer to a call, which is repeated for minutes while the tracker is busy or away.
 *
 * Throws Cancelled, or what the call throws last.
 */
export async function patiently<T>(call: () => Promise<T>, { cancelled, onWait }: Waiting): Promise<T> {
    const started = Date.now();
    for (let attempt = 0; ; attempt++) {
        try {
            return await call();
        } catch (error) {
            const pause = pauseBefore(attempt);
            if (Date.now() + pause - started > patienceWith(error)) {
                throw error;
            }
            onWait();
            await sleep(pause, cancelled);
        }
    }
}

/** Milliseconds for which a call that fails so is repeated. */
function patienceWith(error: unknown): number {
    const code = statusOf(error);
    if (code === null) {
        return 0;
    }
    return BUSY.has(code) ? BUSY_FOR_MS : code === UNCLEAR ? UNCLEAR_FOR_MS : 0;
}

/** The HTTP status with which a call failed; null where it has none. */
export function statusOf(error: unknown): number | null {
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null;
    return typeof code === 'number' ? code : null;
}

/** Twice as long each time, and partly by chance: those who failed together must not come back together. */
function pauseBefore(attempt: number): number {
    return Math.round(Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2));
}

async function sleep(milliseconds: number, cancelled: () => boolean): Promise<void> {
    const until = Date.now() + milliseconds;
    while (Date.now() < until) {
        if (cancelled()) {
            throw new Cancelled();
        }
        await new Promise((resolve) => setTimeout(resolve, Math.min(LOOK_EVERY_MS, until - Date.now())));
    }
}
