import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Cancelled, patiently } from '../src/ts/patience';
import { ServerError } from './cvat';

beforeEach(() => {
    vi.useFakeTimers();
});
afterEach(() => {
    vi.useRealTimers();
});

interface Outcome {
    result: unknown; // or the error
    calls: number;
    waits: number;
    seconds: number;
}

/** Calls what fails with an error (for so many calls) until it gives up, in no real time. */
async function outcome(error: Error, failures = Infinity, cancelAfterSeconds = Infinity): Promise<Outcome> {
    const started = Date.now();
    const seconds = (): number => (Date.now() - started) / 1000;
    let [calls, waits] = [0, 0];
    const call = async (): Promise<string> => {
        calls += 1;
        if (calls <= failures) {
            throw error;
        }
        return 'tracked';
    };
    const running = patiently(call, {
        cancelled: () => seconds() >= cancelAfterSeconds,
        onWait: () => {
            waits += 1;
        },
    }).catch((error: unknown) => error);
    await vi.runAllTimersAsync();
    return { result: await running, calls, waits, seconds: seconds() };
}

test.each([0, 408, 429, 502, 503, 504])('status %d: asked again until it answers', async (code) => {
    const { result, calls, waits } = await outcome(new ServerError('Busy', code), 4);
    expect(result).toBe('tracked');
    expect([calls, waits]).toEqual([5, 4]);
});

test('the tracker stays away: it is waited for for minutes, more and more rarely', async () => {
    const error = new ServerError('503 Server Error: Service Unavailable for url: http://nuclio:8070/', 503);
    const { result, calls, seconds } = await outcome(error);
    expect(result).toBe(error);
    expect(seconds).toBeGreaterThan(280);
    expect(seconds).toBeLessThanOrEqual(300);
    expect(calls).toBeLessThan(65);
});

test('500 can mean that the function is replaced, but not for minutes', async () => {
    const error = new ServerError('500 Server Error: Internal Server Error for url: http://nuclio:8070/', 500);
    expect((await outcome(error, 3)).result).toBe('tracked');
    const { result, seconds } = await outcome(error);
    expect(result).toBe(error);
    expect(seconds).toBeLessThanOrEqual(30);
});

test.each([400, 401, 404, 410, 413])('status %d: it would be the same again', async (code) => {
    const error = new ServerError('No', code);
    expect(await outcome(error)).toEqual({ result: error, calls: 1, waits: 0, seconds: 0 });
});

test('what has no status is no answer of a server', async () => {
    const error = new Error('The frame is outside the job range');
    expect(await outcome(error)).toEqual({ result: error, calls: 1, waits: 0, seconds: 0 });
});

test('those who failed together do not come back together', async () => {
    const pauses = new Set<number>();
    for (let client = 0; client < 20; client++) {
        pauses.add((await outcome(new ServerError('Busy', 503), 1)).seconds);
    }
    expect(pauses.size).toBeGreaterThan(10);
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(0.5);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(1);
});

test('cancelled meanwhile: at once, and not after the pause', async () => {
    const { result, seconds } = await outcome(new ServerError('Busy', 503), Infinity, 30);
    expect(result).toBeInstanceOf(Cancelled);
    expect(seconds).toBeGreaterThanOrEqual(30);
    expect(seconds).toBeLessThan(30.5);
});
