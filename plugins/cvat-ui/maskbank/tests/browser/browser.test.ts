import { afterAll, beforeAll, expect, test } from 'vitest';
import { suggest } from '../../src/ts/suggestions';
import { decodeMask, jaccard } from './masks';
import type { BrowserSetup } from './setup';
import { startBrowserSetup } from './setup';

const [WIDTH, HEIGHT] = [640, 360];
const LAST = 10; // frame
const [RED_KOI, GOLDEN_KOI, TURTLE] = [1, 2, 3];

type Box = [number, number, number, number];

let setup: BrowserSetup;

beforeAll(async () => {
    setup = await startBrowserSetup(192, LAST + 1);
});

afterAll(() => setup?.stop());

function mask(frame: number, object: number): { frame: number; type: string; points: number[] } {
    return { frame, type: 'mask', points: setup.masks[frame]![object]! };
}

/** How well a mask fits the true mask of each object. */
function fits(points: readonly number[], frame: number): Record<number, number> {
    const pixels = decodeMask(points, WIDTH, HEIGHT);
    const truths = Object.entries(setup.masks[frame]!);
    return Object.fromEntries(truths.map(([id, truth]) => [id, jaccard(pixels, decodeMask(truth, WIDTH, HEIGHT))]));
}

test('three masks through the clip', async () => {
    const objects = [RED_KOI, GOLDEN_KOI, TURTLE];
    const outcome = await setup.run({
        ...{ frames: LAST + 1, from: 0, parameters: { 'Target frame': LAST, 'Stop when unsure': 0.1 } },
        drawn: objects.map((object) => ({ ...mask(0, object), label_id: object === TURTLE ? 2 : 1, group: object })),
    });
    expect(outcome).toMatchObject({ error: null, commits: 1, shownFrames: [] });
    expect(outcome.notices).toMatchObject([{ kind: 'success', message: 'AI tracker', duration: 0 }]);
    const [, next] = /^Tracked 10 frames, up to frame 10\..* Outline next: frame (\d+), .+\.$/.exec(
        outcome.notices[0]!.description,
    )!;
    const scores = objects.map((object) => {
        const own = outcome.shapes
            .filter(({ group }) => group === object)
            .sort((one, other) => one.frame - other.frame);
        return own.map(({ score }) => score ?? null);
    });
    expect(suggest(scores)?.position).toBe(Number(next));
    expect(outcome.notices[0]!.button).toBe(`Go to frame ${next}`);
    expect(await setup.pressButtons(8)).toEqual([]); // another job is open
    expect(await setup.pressButtons(7)).toEqual([Number(next)]);
    expect(outcome.shapes).toHaveLength(3 * (LAST + 1));
    const tracked: number[] = [];
    for (const { group, label_id, frame, points } of outcome.shapes) {
        const fit = fits(points!, frame);
        const best = Object.keys(fit).reduce((one, other) => (fit[+one]! > fit[+other]! ? one : other));
        expect(`object ${best} on frame ${frame}`).toBe(`object ${group} on frame ${frame}`);
        expect(fit[group], `object ${group} on frame ${frame}`).toBeGreaterThan(0.5);
        expect(label_id).toBe(group === TURTLE ? 2 : 1);
        if (frame > 0) {
            tracked.push(fit[group]!);
        }
    }
    expect(tracked.reduce((sum, each) => sum + each, 0) / tracked.length).toBeGreaterThan(0.65); // small images are coarse
    expect(setup.exchanges.map(({ frame }) => frame)).toEqual(Array.from({ length: LAST + 1 }, (_, frame) => frame));
    for (const { frame, score } of outcome.shapes) {
        expect(score === undefined, `frame ${frame}`).toBe(frame === 0); // a person's outline has none
    }
    expect(outcome.messages.at(-1)).toMatch(/^Frame 10 \(10 of 10\), confidence 0\.\d\d$/);
});

test('a box as a track, and a mask that is corrected later', async () => {
    setup.exchanges.length = 0;
    const [left, top, right, bottom] = mask(0, TURTLE).points.slice(-4) as Box;
    const box = { frame: 0, type: 'rectangle', points: [left, top, right + 1, bottom + 1], label_id: 2 };
    const outcome = await setup.run({
        ...{
            frames: LAST + 1,
            from: 0,
            parameters: { 'Target frame': 5, 'Polygons, boxes and ellipses become tracks': 'true' },
        },
        drawn: [box, mask(0, RED_KOI), mask(3, GOLDEN_KOI)], // the golden koi corrects the red one
    });
    expect(outcome).toMatchObject({ error: null, commits: 1 });
    expect(setup.exchanges.map(({ type, frame }) => `${type} ${frame}`)).toEqual([
        ...['init_tracking 0', 'track 3', 'track 0'], // what is outlined is learnt first
        ...['track 1', 'track 2', 'track 3', 'track 4', 'track 5'],
        ...['init_tracking 3', 'track 0', 'track 3', 'track 2', 'track 1'], // back from the correction
    ]);
    expect(outcome.messages.at(-1)).toMatch(/^Back to frame 1 \(8 of 8\)/);

    const [track] = outcome.tracks;
    expect(track?.shapes.map(({ frame, outside }) => [frame, outside])).toEqual([
        ...[0, 1, 2, 3, 4, 5].map((frame) => [frame, false]),
        [6, true],
    ]);
    for (const { frame, points } of track!.shapes.slice(0, -1)) {
        const [x1, y1, x2, y2] = points!.map(Math.round) as Box;
        const filled = [0, (x2 - x1) * (y2 - y1), x1, y1, x2 - 1, y2 - 1];
        const [left, top, right, bottom] = mask(frame, TURTLE).points.slice(-4) as Box;
        const truth = [0, (right - left + 1) * (bottom - top + 1), left, top, right, bottom];
        const fit = jaccard(decodeMask(filled, WIDTH, HEIGHT), decodeMask(truth, WIDTH, HEIGHT));
        expect(fit, `frame ${frame}`).toBeGreaterThan(0.6);
    }
    const masks = outcome.shapes.filter(({ type }) => type === 'mask');
    expect(masks.map(({ frame }) => frame).sort()).toEqual([0, 1, 2, 3, 4, 5]);
    // Halfway between the outlines the way there hands over to the way back.
    expect(fits(masks.find(({ frame }) => frame === 1)!.points!, 1)[RED_KOI]).toBeGreaterThan(0.5);
    expect(fits(masks.find(({ frame }) => frame === 2)!.points!, 2)[GOLDEN_KOI]).toBeGreaterThan(0.5);
    expect(fits(masks.find(({ frame }) => frame === 5)!.points!, 5)[GOLDEN_KOI]).toBeGreaterThan(0.3);
});

test('a box becomes a track, which is corrected after the page was loaded anew', async () => {
    const [left, top, right, bottom] = mask(0, TURTLE).points.slice(-4) as Box;
    const box = { frame: 0, type: 'rectangle', points: [left, top, right + 1, bottom + 1], label_id: 2 };
    const before = await setup.run({ frames: LAST + 1, from: 0, parameters: { 'Target frame': 4 }, drawn: [box] });
    expect(before.shapes).toEqual([]);
    await setup.reload();
    const [track] = before.tracks;
    const corrected = [30, 40, 230, 200];
    track!.shapes.find(({ frame }) => frame === 2)!.points = corrected;
    const after = await setup.run({
        ...{ frames: LAST + 1, from: 2, drawn: [], tracks: [track!] },
        parameters: { 'Target frame': 4, 'Only up to the outlines around this frame': 'true' },
    });
    expect(after).toMatchObject({ error: null, commits: 1 });
    const points = (frame: number, { shapes } = after.tracks[0]!): unknown =>
        shapes.find((each) => each.frame === frame)?.points;
    expect(points(0)).toEqual(points(0, track));
    expect(points(2)).toEqual(corrected);
    [3, 4].forEach((frame) => expect(points(frame), `frame ${frame}`).not.toEqual(points(frame, track)));
});

test('a correction, up to the outlines around it', async () => {
    setup.exchanges.length = 0;
    const outcome = await setup.run({
        ...{ frames: LAST + 1, from: 6, parameters: { 'Only up to the outlines around this frame': 'true' } },
        drawn: [0, 4, 6, 9].map((frame) => mask(frame, RED_KOI)),
    });
    expect(outcome).toMatchObject({ error: null, commits: 1 });
    expect(setup.exchanges.map(({ type, frame }) => `${type} ${frame}`)).toEqual([
        ...['init_tracking 4', 'track 0', 'track 6', 'track 9', 'track 4'],
        ...['track 5', 'track 6', 'track 7', 'track 8', 'track 9'],
        ...['init_tracking 9', 'track 0', 'track 4', 'track 6', 'track 9'],
        ...['track 8', 'track 7', 'track 6', 'track 5'],
    ]);
    const made = outcome.shapes.filter(({ source }) => source === 'auto');
    expect(made.map(({ frame }) => frame).sort()).toEqual([5, 7, 8]);
    for (const { frame, points } of made) {
        expect(fits(points!, frame)[RED_KOI], `frame ${frame}`).toBeGreaterThan(0.6);
    }
});

test('a request that the function refuses', async () => {
    const outcome = await setup.run({
        ...{ frames: LAST + 1, from: 0, parameters: { 'Target frame': LAST } },
        drawn: [mask(0, TURTLE), { ...mask(0, TURTLE), label_id: 2 }],
    });
    expect(outcome).toMatchObject({
        error: 'AI tracker: nothing was tracked.',
        commits: 0,
    });
    const description =
        'The tracker refused the request; redraw outlines that are empty or lie under others, or start a new track ' +
        'from this frame. Its log tells the administrator why.';
    expect(outcome.notices).toMatchObject([{ kind: 'error', description, duration: 0 }]); // those before are closed
    expect(outcome.shapes).toHaveLength(2);
});
