import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Screen } from '../src/ts/action';
import { AITracker } from '../src/ts/action';
import type { Keyframe, Shape, Track } from '../src/ts/cvat-types';
import type { Outline } from '../src/ts/outlines';
import type { Summary } from '../src/ts/summary';
import type { Call } from './cvat';
import { coreOf, interpolated, MemoryStorage, runAction, ServerError, StoredJob, withSentence } from './cvat';
import { MASKBANK, moved, Server } from './server';

const BOX = [10, 20, 30, 40];
const MASK = [0, 2, 1, 3, 100, 50, 102, 51];
const POLYGON = [5, 5, 15, 5, 10, 15];
const ELLIPSE = [50, 50, 60, 45];
const TRACKS = 'Polygons, boxes and ellipses become tracks';

let job: StoredJob;
let server: Server;
let action: AITracker;
let screen: Screen;
let storage: MemoryStorage;
let notices: [string, string][];
let summaries: Summary[];
let closings: number[]; // how many notices there had been
let shownFrames: number[];
let holds: number; // how often the page is held just now

beforeEach(() => {
    job = new StoredJob(range(0, 19));
    server = new Server();
    notices = [];
    summaries = [];
    closings = [];
    shownFrames = [];
    holds = 0;
    screen = {
        trackers: () => [MASKBANK],
        openJob: () => job,
        notify: (kind, sentence) => notices.push([kind, sentence]),
        showSummary: (summary) => summaries.push(summary),
        holdPage: () => {
            holds += 1;
            return () => void (holds -= 1);
        },
        closeNotices: () => closings.push(notices.length + summaries.length),
        showFrame: async (frame) => {
            // CVAT has taken over the results by then.
            shownFrames.push(frame);
        },
    };
    storage = new MemoryStorage();
    action = new AITracker(coreOf([MASKBANK], server.call), screen, () => storage);
});

type Options = Partial<Record<string, string | number>>;

async function run(frame: number, target: number, options: Options = {}, cancelled = () => false): Promise<string[]> {
    const messages: string[] = [];
    const parameters = { 'Target frame': target, [TRACKS]: 'false', ...options } as Record<string, string | number>;
    const ran = runAction(action, job, frame, parameters, (message) => messages.push(message), cancelled);
    await withSentence(ran, notices);
    return messages;
}

function range(first: number, last: number): number[] {
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

/** By frame, the points of all shapes of a type. */
function pointsOf(type: string, shapes: readonly Shape[] = job.shapes): Record<number, number[][]> {
    const found: Record<number, number[][]> = {};
    shapes
        .filter((shape) => shape.type === type)
        .forEach((shape) => (found[shape.frame] ??= []).push(shape.points ?? []));
    return found;
}

function shifted(type: string, points: number[], frames: number[], from: number): Record<number, number[][]> {
    return Object.fromEntries(frames.map((frame) => [frame, [moved({ type, points }, frame - from).points]]));
}

/** A tracker whose objects do not move. */
function stillStanding(call: Call): Call {
    return async (...args) => {
        const reply = (await call(...args)) as { shapes: (Outline | null)[] };
        return { ...reply, shapes: reply.shapes.map((outline) => outline && { ...outline, points: BOX }) };
    };
}

/** The frames on which a track shows something. */
function visible(track: Track): number[] {
    return job.numbers.filter((frame) => interpolated(track, frame));
}

function keyframes(track: Track | undefined): Record<number, number[] | 'outside'> {
    const entries = track?.shapes.map((each: Keyframe) => [each.frame, each.outside ? 'outside' : each.points]);
    return Object.fromEntries(entries ?? []);
}

describe('which frames', () => {
    test('forward: a shape on every frame up to the target', async () => {
        job.draw({ frame: 3, type: 'mask', points: MASK });
        const messages = await run(3, 8);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(3, 8), 3));
        expect(server.frames('init_tracking')).toEqual([3]);
        expect(server.frames('track')).toEqual(range(4, 8));
        expect(job.commits).toHaveLength(1);
        expect(job.commits[0]?.deleted).toEqual({ shapes: [], tags: [], tracks: [] });
        expect(messages).toContain('Frame 5 (2 of 5), confidence 0.90');
        expect(notices).toEqual([]);
        expect(shownFrames).toEqual([]);
    });

    test('backward: a target before the current frame', async () => {
        job.draw({ frame: 6, type: 'mask', points: MASK });
        await run(6, 2);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(2, 6), 6));
        expect(server.frames('track')).toEqual([5, 4, 3, 2]);
    });

    test('a target outside the job is its last frame, and so is no target', async () => {
        job.draw({ frame: 17, type: 'mask', points: MASK });
        await run(17, 400);
        expect(server.frames('track')).toEqual([18, 19]);
        await runAction(action, job, 17, {});
        expect(server.frames('track')).toEqual([18, 19, 18, 19]);
    });

    test('a target that is the current frame is refused', async () => {
        job.draw({ frame: 3, type: 'mask', points: MASK });
        await expect(run(3, 3)).rejects.toThrow('choose another target frame.');
        expect(server.requests).toEqual([]);
    });

    test('the frames of a ground truth job only', async () => {
        job = new StoredJob([2, 5, 6, 11, 17]);
        job.draw({ frame: 5, type: 'mask', points: MASK });
        await run(5, 17);
        expect(server.frames('track')).toEqual([6, 11, 17]);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, [5, 6, 11, 17], 5));
    });

    test('no deleted frames', async () => {
        job.deleted.add(4).add(5);
        job.draw({ frame: 3, type: 'mask', points: MASK });
        await run(3, 7);
        expect(server.frames('track')).toEqual([6, 7]);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, [3, 6, 7], 3));
    });

    test('nothing from a deleted frame, or where all frames up to the target are deleted', async () => {
        job.draw({ frame: 3, type: 'mask', points: MASK });
        range(4, 6).forEach((frame) => job.deleted.add(frame));
        await expect(run(3, 6)).rejects.toThrow('All frames up to frame 6 are deleted');
        await run(3, 7);
        expect(Object.keys(pointsOf('mask'))).toEqual(['3', '7']);
        job.draw({ frame: 8, type: 'mask', points: MASK });
        job.deleted.add(9);
        await expect(run(7, 9)).rejects.toThrow('annotated already');
        job.deleted.add(7);
        await expect(run(7, 9)).rejects.toThrow('Frame 7 is deleted: restore it');
        expect(job.commits).toHaveLength(1);
    });

    test('no frame that is deleted meanwhile', async () => {
        server.before = ({ frame }) => frame === 5 && job.deleted.add(6);
        job.draw({ frame: 3, type: 'mask', points: MASK });
        await run(3, 8);
        expect(server.frames('track')).toEqual([4, 5, 7, 8]);
    });
});

describe('which objects', () => {
    test('all of a frame go in one call, and keep their states', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK, label_id: 1 });
        job.draw({ frame: 0, type: 'polygon', points: POLYGON, label_id: 2 });
        job.draw({ frame: 0, type: 'ellipse', points: ELLIPSE });
        job.draw({ frame: 0, type: 'points', points: [1, 1] });
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }]);
        await run(0, 4);
        expect(server.requests).toHaveLength(5);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(0, 4), 0));
        expect(pointsOf('polygon')).toEqual(shifted('polygon', POLYGON, range(0, 4), 0));
        expect(pointsOf('ellipse')).toEqual(shifted('ellipse', ELLIPSE, range(0, 4), 0));
        expect(pointsOf('points')).toEqual({ 0: [[1, 1]] });
        const [track] = job.tracks;
        expect(keyframes(track)).toEqual(
            Object.fromEntries(
                range(0, 4).map((frame) => [frame, moved({ type: 'rectangle', points: BOX }, frame).points]),
            ),
        );
    });

    test('a track is tracked from where it is on the frame, between its keyframes', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: [0, 0, 10, 10] },
            { frame: 10, points: [100, 0, 110, 10] },
        ]);
        await run(5, 7);
        expect(server.requests[0]?.shapes).toEqual([{ type: 'rectangle', points: [50, 0, 60, 10] }]);
        const points = keyframes(job.tracks[0]);
        expect(points[6]).toEqual([51, 0, 61, 10]);
        expect(points[10]).toEqual([100, 0, 110, 10]);
    });

    test.each([
        ['forward', 12, range(0, 10)],
        ['backward', 8, range(10, 19)],
    ])(
        'a track that is tracked %s from between its keyframes stays there, and on the other side',
        async (_, target, frames) => {
            job.drawTrack('rectangle', [
                { frame: 0, points: [0, 0, 10, 10], rotation: 30 },
                { frame: 20, points: [400, 0, 410, 10], rotation: 30 },
            ]);
            const look = (): object[] =>
                frames.map((frame) => {
                    const { points, rotation } = interpolated(job.tracks[0]!, frame)!;
                    return { points: points?.map(Math.round), rotation };
                });
            const before = look();
            await run(10, target);
            expect(look()).toEqual(before);
        },
    );

    test('where a track was tracked from, between its keyframes, it is no outline of a person', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: [0, 0, 10, 10] },
            { frame: 20, points: [400, 0, 410, 10] },
        ]);
        await run(10, 12);
        await run(5, 12);
        expect(keyframes(job.tracks[0])[10]).toEqual([105, 0, 115, 10]);
    });

    test.each([
        ['forward', 0, 12],
        ['backward', 17, 3],
    ])('a track that is tracked %s is occluded where it was, and in front where it was', async (_, from, target) => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 5, points: BOX, occluded: true, z_order: 2 },
            { frame: 15, points: BOX },
        ]);
        const look = (): unknown[] =>
            range(0, 19).map((frame) => {
                const { occluded, z_order } = interpolated(job.tracks[0]!, frame)!;
                return [frame, occluded, z_order];
            });
        const before = look();
        await run(from, target);
        expect(look()).toEqual(before);
    });

    test('not a track that is not there', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 2, points: BOX, outside: true },
        ]);
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 5, points: BOX, outside: true },
        ]);
        job.drawTrack('points', [{ frame: 0, points: [1, 1] }]);
        job.drawTrack('rectangle', [{ frame: 9, points: BOX }]);
        await expect(run(5, 7)).rejects.toThrow('There is no mask, polygon, ellipse or box on this frame');
    });

    test('a rotated box or ellipse is sent as a polygon, and stays what it is, upright', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: [10, 20, 30, 30], rotation: 90 });
        job.draw({ frame: 0, type: 'ellipse', points: [50, 50, 60, 45], rotation: 90 });
        await run(0, 1);
        const [box, ellipse] = server.requests[0]?.shapes ?? [];
        expect([box?.type, ellipse?.type]).toEqual(['polygon', 'polygon']);
        box?.points.forEach((number, index) => expect(number).toBeCloseTo([25, 15, 25, 35, 15, 35, 15, 15][index]!));
        expect(ellipse?.points).toHaveLength(128);
        pointsOf('rectangle')[1]?.[0]?.forEach((number, index) => {
            expect(number).toBeCloseTo([16, 15, 26, 35][index]!);
        });
        pointsOf('ellipse')[1]?.[0]?.forEach((number, index) => {
            expect(number).toBeCloseTo([51, 50, 56, 40][index]!, 1);
        });
        expect(job.shapes.filter(({ frame }) => frame === 1).map(({ rotation }) => rotation)).toEqual([0, 0]);
    });

    test.each([
        ['stays one, rotated where a person drew it so', false],
        ['also does where the server drops seeds', true],
    ])('a rotated track of boxes %s', async (_, dropsSeeds) => {
        server.dropsSeeds = dropsSeeds;
        const rotated = { points: [10, 20, 30, 30], rotation: 90 };
        job.drawTrack('rectangle', [
            { frame: 0, ...rotated },
            { frame: 2, points: BOX },
            { frame: 4, ...rotated },
        ]);
        server.isGone = (_, frame) => frame === 6;
        await run(0, 7);
        const shapes = job.tracks[0]?.shapes ?? [];
        expect(shapes.map(({ type, rotation }) => [type, rotation])).toEqual(
            [90, 0, 0, 0, 90, 0, 0, 0].map((rotation) => ['rectangle', rotation]),
        );
        const { 0: first, 1: tracked, 2: corrected, 3: after, 4: last, 6: gone } = keyframes(job.tracks[0]);
        expect([first, corrected, last]).toEqual([rotated.points, BOX, rotated.points]);
        expect(tracked).toEqual([16, 15, 26, 35]);
        expect(after).toEqual([11, 20, 31, 40]);
        expect(gone).toBe('outside');
        expect(server.frames('init_tracking')).toEqual(dropsSeeds ? [0, 0, 2, 4] : [0]);
    });

    test('label, attributes, group and z-order stay', async () => {
        const attributes = [
            { spec_id: 21, value: 'old' },
            { spec_id: 22, value: 'asleep' },
        ];
        job.draw({
            frame: 0,
            type: 'mask',
            points: MASK,
            label_id: 2,
            group: 4,
            z_order: 3,
            occluded: true,
            attributes,
        });
        await run(0, 2);
        const [, first] = job.shapes;
        expect(first).toMatchObject({
            ...{
                frame: 1,
                label_id: 2,
                group: 4,
                z_order: 3,
                occluded: true,
                outside: false,
                source: 'auto',
                attributes,
            },
        });
        expect(first).not.toHaveProperty('id');
    });
});

describe('attributes, occluded and z-order', () => {
    const AROUND = { 'Only up to the outlines around this frame': 'true' };
    const is = (value: string): Pick<Shape, 'attributes'> => ({ attributes: [{ spec_id: 22, value }] });
    const outline = (frame: number, drawn: Partial<Shape>): Shape =>
        job.draw({ frame, ...moved({ type: 'mask', points: MASK }, frame), label_id: 2, ...drawn });
    const on = (frame: number): Shape => job.shapes.find((shape) => shape.frame === frame)!;
    /** The frames on which the object is said to be so. */
    const framesThat = (value: string): number[] =>
        job.numbers.filter((frame) => on(frame)?.attributes[0]?.value === value);

    test('are those of the nearest outline, and of two of the earlier one', async () => {
        outline(0, is('awake'));
        outline(10, { ...is('asleep'), occluded: true, z_order: 5 });
        await run(0, 14);
        expect(framesThat('awake')).toEqual(range(0, 5));
        expect(framesThat('asleep')).toEqual(range(6, 14));
        expect(job.numbers.filter((frame) => on(frame)?.occluded)).toEqual(range(6, 14));
        expect(job.numbers.filter((frame) => on(frame)?.z_order === 5)).toEqual(range(6, 14));
    });

    test('are those of the nearest outline after a correction, too', async () => {
        outline(0, is('awake'));
        await run(0, 19);
        job.edit(on(12), { points: MASK, ...is('asleep'), occluded: true });
        await run(12, 19, AROUND);
        expect(framesThat('awake')).toEqual(range(0, 6));
        expect(framesThat('asleep')).toEqual(range(7, 19));
        expect(job.numbers.filter((frame) => on(frame).occluded)).toEqual(range(7, 19));
    });

    test.each([{ occluded: true }, { z_order: 4 }, { rotation: 30 }])(
        'where a person sets %j on a shape that was tracked, it stays as it is',
        async (changes) => {
            job.draw({ frame: 0, type: 'rectangle', points: BOX });
            await run(0, 19);
            job.edit(on(7), changes);
            const changed = structuredClone(on(7));
            await run(0, 19);
            expect(on(7)).toEqual(changed);
            expect(job.shapes).toHaveLength(20);
        },
    );

    test('attributes that a person sets on a shape that was tracked stay, run after run', async () => {
        outline(0, is('awake'));
        await run(0, 19);
        job.describe(on(7), is('asleep').attributes);
        await run(0, 19);
        await run(0, 19);
        expect(framesThat('asleep')).toEqual([7]);
        job.edit(on(10), { points: MASK, ...is('dozing') });
        await run(10, 19, AROUND);
        expect(framesThat('awake')).toEqual(range(0, 5));
        expect(framesThat('asleep')).toEqual([7]);
        expect(framesThat('dozing')).toEqual([6, ...range(8, 19)]);
    });
});

describe('objects that are gone', () => {
    test('no shape', async () => {
        server.isGone = (_, frame) => frame === 2 || frame === 3;
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 5);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '4', '5']);
    });

    test('a box that is answered all the same', async () => {
        server.isGone = (_, frame) => frame === 2;
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 3);
        expect(Object.keys(pointsOf('rectangle'))).toEqual(['0', '1', '3']);
    });

    test('a track is outside, from one keyframe on', async () => {
        server.isGone = (_, frame) => frame >= 2 && frame <= 4;
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }]);
        await run(0, 6);
        const [track] = job.tracks;
        expect(visible(track!)).toEqual([0, 1, 5, 6, ...range(7, 19)]);
        expect(keyframes(track)).toMatchObject({ 1: [11, 20, 31, 40], 2: 'outside', 5: [15, 20, 35, 40] });
        expect(keyframes(track)).not.toHaveProperty('3');
        expect(track?.source).toBe('semi-auto');
    });

    test('a change of attributes stays where a track is gone', async () => {
        server.isGone = (_, frame) => frame >= 2;
        const attributes = [{ spec_id: 22, value: 'awake' }];
        job.drawTrack(
            'rectangle',
            [
                { frame: 0, points: BOX },
                { frame: 3, points: BOX, attributes },
            ],
            {
                ...{ source: 'auto', label_id: 2 },
            },
        );
        await run(0, 5);
        expect(keyframes(job.tracks[0])).toEqual({ 0: BOX, 1: [11, 20, 31, 40], 2: 'outside', 3: 'outside' });
        expect(job.tracks[0]?.shapes[3]?.attributes).toEqual(attributes);
    });

    test('a track backward: its first keyframe is where it appears', async () => {
        server.isGone = (_, frame) => frame === 4 || frame < 2;
        job.drawTrack('polygon', [{ frame: 6, points: POLYGON, attributes: [{ spec_id: 22, value: 'asleep' }] }], {
            label_id: 2,
        });
        await run(6, 0);
        const [track] = job.tracks;
        expect(visible(track!)).toEqual([2, 3, 5, 6, ...range(7, 19)]);
        expect(track?.frame).toBe(2);
        expect(track?.shapes[0]).toMatchObject({ frame: 2, attributes: [{ spec_id: 22, value: 'asleep' }] });
    });
});

describe('other annotated frames', () => {
    const SEED = MASK.map((number, index) => (index < 4 ? number : number + 40));

    test.each([
        ['join what is known', false],
        ['start the object anew where the server drops them', true],
    ])('%s', async (_, dropsSeeds) => {
        server.dropsSeeds = dropsSeeds;
        job.draw({ frame: 0, type: 'polygon', points: POLYGON, label_id: 2 });
        job.draw({ frame: 0, type: 'mask', points: MASK, group: 5 });
        job.draw({ frame: 3, type: 'mask', points: SEED, group: 5, source: 'semi-auto' });
        await run(0, 6);
        expect(pointsOf('polygon')).toEqual(shifted('polygon', POLYGON, range(0, 6), 0));
        expect(pointsOf('mask')).toEqual({
            ...shifted('mask', MASK, range(0, 1), 0),
            ...shifted('mask', SEED, range(2, 6), 3), // on 2 the way back is surer, as it is nearer to its outline
        });
        const seed = { type: 'mask', points: SEED };
        const corrected = ['track', [null, seed]];
        const started = ['init_tracking', [seed]]; // on the way back, too
        const atSeed = server.requests.filter(({ frame }) => frame === 3).map(({ type, shapes }) => [type, shapes]);
        expect(atSeed).toEqual(
            dropsSeeds
                ? [corrected, corrected, started, started, started] // first ahead
                : [corrected, corrected, started, ['track', [seed]]],
        );
        expect(server.frames('track').slice(-2)).toEqual([2, 1]);
        expect(job.shapes.find(({ frame, type }) => frame === 3 && type === 'mask')?.source).toBe('semi-auto');
    });

    test('are learnt ahead, so that the tracker knows them all when it begins', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        [3, 6, 9].forEach((frame) => job.draw({ frame, type: 'mask', points: SEED }));
        job.deleted.add(6);
        const messages = await run(0, 10);
        const seen = server.requests.map(({ type, frame, shapes }) => [type, frame, shapes?.[0]?.points]);
        expect(seen.slice(0, 5)).toEqual([
            ['init_tracking', 0, MASK],
            ['track', 3, SEED],
            ['track', 9, SEED],
            ['track', 0, MASK],
            ['track', 1, undefined],
        ]);
        const back = server.requests.findIndex(({ type, frame }) => type === 'init_tracking' && frame === 9);
        expect(seen.slice(back, back + 4)).toEqual([
            ['init_tracking', 9, SEED],
            ['track', 0, MASK],
            ['track', 3, SEED],
            ['track', 9, SEED],
        ]);
        expect(messages[0]).toBe('Starting: the tracker learns all that is outlined…');
    });

    test('before the current frame and behind the target are learnt as well, if it is clear whose they are', async () => {
        job.draw({ frame: 6, type: 'mask', points: MASK });
        [1, 3, 12].forEach((frame) => job.draw({ frame, type: 'mask', points: SEED }));
        await run(6, 8);
        expect(server.requests.map(({ frame, shapes }) => [frame, !!shapes])).toEqual([
            ...[6, 1, 3, 12, 6].map((frame) => [frame, true]),
            ...[7, 8].map((frame) => [frame, false]),
        ]);
        expect(job.commits[0]?.created.shapes.map(({ frame }) => frame)).toEqual([7, 8]);

        server.requests.length = 0;
        await run(6, 8, { 'Use other annotated frames as seeds': 'false' });
        expect(server.requests.map(({ frame }) => frame)).toEqual([6, 7, 8]);

        server.requests.length = 0;
        job.draw({ frame: 14, type: 'mask', points: MASK }); // two of the label: the others may be of either
        job.draw({ frame: 14, type: 'mask', points: SEED });
        await run(6, 8);
        expect(server.requests.map(({ frame }) => frame)).toEqual([6, 7, 8]);
        expect(notices).toEqual([]);
    });

    test('elsewhere beside what a program made may be of another object: they are left out', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 19);
        job.draw({ frame: 12, ...moved({ type: 'mask', points: MASK }, 60) });
        server.requests.length = 0;
        await run(0, 8);
        expect(server.requests.map(({ frame }) => frame)).toEqual(range(0, 8));
        job.draw({ frame: 15, ...moved({ type: 'mask', points: MASK }, 15) }); // this one takes its place
        server.requests.length = 0;
        await run(0, 14);
        expect(server.requests[1]?.frame).toBe(1); // it is still unclear whose the one on 12 is
    });

    test('elsewhere of another type do not keep it from going back', async () => {
        [2, 6].forEach((frame) => job.draw({ frame, type: 'mask', points: MASK }));
        job.draw({ frame: 12, type: 'rectangle', points: BOX });
        await run(2, 8);
        expect(server.frames('track').slice(-3)).toEqual([5, 4, 3]);
    });

    test('ahead are as many as it can remember', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        [3, 6, 9].forEach((frame) => job.draw({ frame, type: 'mask', points: SEED }));
        server.before = ({ frame }) => {
            if (frame === 6 && server.requests.length < 5) {
                throw new ServerError('These objects already have as many corrected frames as it can remember.', 400);
            }
        };
        await run(0, 10);
        expect(server.requests.slice(0, 5).map(({ type, frame }) => [type, frame])).toEqual([
            ['init_tracking', 0],
            ['track', 3],
            ['track', 6],
            ['track', 9],
            ['track', 0],
        ]);
        expect(pointsOf('mask')[10]).toEqual([moved({ type: 'mask', points: SEED }, 1).points]);
        expect(notices).toEqual([]);
    });

    test('that it cannot use do not keep it from learning the others', async () => {
        [1, 2].forEach((group) =>
            [0, 2, 10, 15].forEach((frame) => job.draw({ frame, type: 'mask', points: MASK, group })),
        );
        server.before = ({ frame, shapes }) => {
            if (frame === 0 && shapes) {
                throw new ServerError('It lies wholly under other objects.', 400);
            }
        };
        await run(10, 12);
        expect(server.frames('track')).toEqual([0, 2, 15, 10, 11, 12]);
        expect(notices).toEqual([]);
    });

    test('that are more than it remembers start their object anew, and the others go on', async () => {
        job.drawTrack(
            'rectangle',
            [0, 3, 6, 9].map((frame) => ({ frame, points: [10 * frame, 20, 10 * frame + 20, 40] })),
        );
        job.draw({ frame: 0, type: 'mask', points: MASK });
        let remembered = new Set<number>();
        server.before = ({ type, frame, shapes }) => {
            remembered = type === 'init_tracking' ? new Set() : remembered;
            if (shapes && remembered.size === 3 && !remembered.has(frame)) {
                throw new ServerError('These objects already have as many corrected frames as it can remember.', 400);
            }
            remembered = shapes ? remembered.add(frame) : remembered;
        };
        await run(0, 11);
        const on9 = server.requests.filter(({ frame }) => frame === 9).map((each) => [each.type, each.states?.length]);
        expect(on9).toEqual([
            ['track', 2], // ahead
            ['track', 2], // on the way
            ['track', 1],
            ['init_tracking', undefined],
            ['init_tracking', undefined], // back from it
            ['track', 1],
        ]);
        expect(keyframes(job.tracks[0])).toMatchObject({ 9: [90, 20, 110, 40], 11: [92, 20, 112, 40] });
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(0, 11), 0));
        expect(notices).toEqual([]);
    });

    test('that cannot be used on the way, not even to start anew, are told of', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        server.before = ({ frame, shapes }) => {
            if (frame === 3 && shapes) {
                throw new ServerError('It has no area.', 400);
            }
        };
        await run(0, 5);
        expect(notices).toEqual([['error', 'Frame 3: It has no area. What was tracked up to frame 2 is kept.']]);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '2', '3']);
    });

    test('that it cannot learn ahead at all count from their frames on', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        server.before = ({ type, frame, shapes }) => {
            if (type === 'track' && shapes?.[0] && (frame !== 3 || server.requests.length < 4)) {
                throw new ServerError('It remembers as many outlines as it can.', 400);
            }
        };
        await run(0, 5);
        expect(server.frames('init_tracking')).toEqual([0, 0, 3]);
        expect(pointsOf('mask')).toEqual({
            ...shifted('mask', MASK, range(0, 1), 0),
            ...shifted('mask', SEED, range(2, 5), 3),
        });
        expect(notices).toEqual([]);
    });

    test('ahead: what else goes wrong then is told at once', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        server.before = ({ frame }) => {
            if (frame === 3) {
                throw new ServerError('These are more objects than it takes.', 413);
            }
        };
        await expect(run(0, 5)).rejects.toThrow('more objects');
        expect(server.requests).toHaveLength(2);
    });

    test('it can be cancelled while they are learnt', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        [3, 6].forEach((frame) => job.draw({ frame, type: 'mask', points: SEED }));
        await run(0, 9, {}, () => server.requests.length > 1);
        expect(server.requests.map(({ frame }) => frame)).toEqual([0, 3]);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '3', '6']);
        expect(notices).toEqual([]);
    });

    test('are tracked back from, each object from its last one', async () => {
        job.draw({ frame: 0, type: 'polygon', points: POLYGON, label_id: 2 });
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 7, type: 'polygon', points: POLYGON, label_id: 2 });
        job.draw({ frame: 4, type: 'mask', points: SEED });
        const messages = await run(0, 9);
        const back = server.requests.findLastIndex(({ frame }) => frame === 9) + 1;
        expect(server.requests.slice(back).map(({ type, frame, states }) => [type, frame, states?.length])).toEqual([
            ['init_tracking', 7, undefined],
            ...[0, 7, 6, 5, 4].map((frame) => ['track', frame, 1]),
            ['init_tracking', 4, undefined],
            ...[0, 4].map((frame) => ['track', frame, 1]),
            ...[3, 2, 1].map((frame) => ['track', frame, 2]),
        ]);
        expect(messages.slice(-2)).toEqual(['Back to frame 2 (15 of 16)', 'Back to frame 1 (16 of 16)']);
        expect(pointsOf('mask')).toEqual({
            ...shifted('mask', MASK, [0, 1], 0),
            ...shifted('mask', SEED, range(2, 9), 4),
        });
        expect(pointsOf('polygon')).toEqual({
            ...shifted('polygon', POLYGON, range(0, 3), 0),
            ...shifted('polygon', POLYGON, range(4, 9), 7),
        });
    });

    test('where masks of both ways overlap, the surer one keeps the pixels', async () => {
        const beside = [0, 2, 1, 3, 135, 90, 137, 91]; // one pixel further to the right than the first one then
        job.draw({ frame: 0, type: 'mask', points: MASK, group: 1 });
        job.draw({ frame: 6, type: 'mask', points: SEED, group: 1 });
        job.draw({ frame: 0, type: 'mask', points: beside, group: 2 });
        await run(0, 7);
        expect(pointsOf('mask')[5]).toEqual([
            [0, 2, 139, 90, 139, 91],
            [0, 2, 1, 3, 140, 90, 142, 91],
        ]);
    });

    test.each([
        ['the annotator cancels', true],
        ['the tracker fails', false],
    ])('on the way back %s: what was found on the way there is kept', async (_, cancels) => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 6, type: 'mask', points: SEED });
        const onTheWayBack = (): boolean => server.frames('track').filter((frame) => frame === 5).length > 1;
        server.before = () => {
            if (!cancels && onTheWayBack()) {
                throw new ServerError('It cannot be.', 400);
            }
        };
        await run(0, 7, {}, () => cancels && onTheWayBack());
        expect(pointsOf('mask')).toEqual({
            ...shifted('mask', MASK, range(0, 5), 0),
            ...shifted('mask', SEED, [6, 7], 6),
        });
        expect(notices).toEqual(
            cancels ? [] : [['error', expect.stringMatching(/^Frame 5: It cannot be.* frame 7 is kept/)]],
        );
        expect(summaries[0]?.text).toContain('Tracked 7 frames, up to frame 7.');
    });

    test('of ungrouped objects: if the label has one on each frame', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        job.draw({ frame: 9, type: 'mask', points: MASK }); // what is behind the target frame does not matter
        job.draw({ frame: 9, type: 'mask', points: SEED });
        await run(0, 5);
        expect(pointsOf('mask')[5]).toEqual([moved({ type: 'mask', points: SEED }, 2).points]);
        expect(job.shapes.every(({ group }) => group === 0)).toBe(true);
    });

    test('are none: objects of one label are told apart without a word', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 0, type: 'mask', points: SEED });
        await run(0, 2);
        expect(job.shapes.filter(({ frame }) => frame === 2).map(({ group }) => group)).toEqual([1, 2]);
        expect(notices).toEqual([]);
    });

    test('are left alone where it is unclear whose they are, and objects get groups to tell them apart', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 0, type: 'mask', points: SEED });
        job.draw({ frame: 3, type: 'mask', points: POLYGON });
        job.draw({ frame: 9, type: 'mask', points: MASK, group: 12 });
        await run(0, 4);
        expect(pointsOf('mask')[3]).toHaveLength(3);
        expect(notices).toEqual([['warning', expect.stringContaining('a group of its own, or delete what is wrong.')]]);
        const groups = job.shapes.filter(({ frame }) => frame === 0).map(({ group, points }) => [group, points]);
        expect(groups).toEqual([
            [13, MASK],
            [14, SEED],
        ]);

        // The next time it is clear: what was tracked before is tracked anew, not drawn twice.
        await run(0, 4);
        expect(pointsOf('mask')[4]).toHaveLength(2);
        expect(pointsOf('mask')[3]).toHaveLength(3);
        expect(notices.slice(1)).toEqual([['warning', expect.stringContaining('on frame 3 has no group')]]);
    });

    test('drawn beside what a program made replace it', async () => {
        const better = moved({ type: 'mask', points: MASK }, 4); // over what was found on frame 3
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 5);
        job.draw({ frame: 3, ...better });
        await run(0, 5);
        const corrected = server.requests.filter(({ shapes, type }) => type === 'track' && shapes?.[0]);
        expect(corrected.map(({ frame }) => frame)).toEqual([3, 0, 3, 0, 3]); // ahead, on the way, and back
        expect(pointsOf('mask')[3]).toEqual([better.points]);
        expect(pointsOf('mask')[5]).toEqual([moved(better, 2).points]);
        expect(Object.values(pointsOf('mask')).every((drawn) => drawn.length === 1)).toBe(true);
        expect(notices).toEqual([]);
    });

    test('drawn beside what a program made are where a run from there starts', async () => {
        const better = moved({ type: 'mask', points: MASK }, 4);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 5);
        job.draw({ frame: 3, ...better });
        await run(3, 5);
        expect(pointsOf('mask')[3]).toEqual([better.points]);
        expect(pointsOf('mask')[4]).toEqual([moved(better, 1).points]);
        expect(Object.values(pointsOf('mask')).every((drawn) => drawn.length === 1)).toBe(true);
    });

    test('elsewhere than what a program made may be of another object: both go on, and it is said', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 5);
        job.draw({ frame: 3, type: 'mask', points: SEED });
        await run(3, 5);
        expect(pointsOf('mask')[3]).toHaveLength(2);
        expect(pointsOf('mask')[4]).toEqual([
            moved({ type: 'mask', points: MASK }, 4).points, // of the first run
            moved({ type: 'mask', points: MASK }, 4).points,
            moved({ type: 'mask', points: SEED }, 1).points,
        ]);
        expect(notices).toEqual([['warning', expect.stringContaining('On frame 3 there are several shapes')]]);
        expect(job.shapes.filter(({ frame }) => frame === 3).map(({ group }) => group)).toEqual([1, 2]);
    });

    test('of several that a program made none is lost to one that is drawn beside them', async () => {
        job.draw({ frame: 3, type: 'mask', points: MASK, source: 'auto' });
        job.draw({ frame: 3, type: 'mask', points: SEED, source: 'auto' });
        job.draw({ frame: 3, ...moved({ type: 'mask', points: MASK }, 1) });
        await run(3, 4);
        expect(server.requests[0]?.shapes).toHaveLength(3);
    });

    test('without a group, where the objects have groups, are named', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 0, type: 'mask', points: SEED });
        await run(0, 5);
        job.draw({ frame: 3, type: 'mask', points: SEED });
        await run(0, 5);
        expect(pointsOf('mask')[3]).toHaveLength(3);
        expect(notices).toEqual([['warning', expect.stringContaining('on frame 3 has no group')]]);
    });

    test('without a group, on a shape of one: that is said where a run starts there, too', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 0, type: 'mask', points: SEED });
        await run(0, 5);
        job.draw({ frame: 3, ...moved({ type: 'mask', points: MASK }, 4) });
        await run(3, 5);
        expect(notices).toEqual([['warning', expect.stringContaining('on frame 3 has no group')]]);
    });

    test('of other objects are no seeds', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK, group: 5 });
        job.draw({ frame: 3, type: 'mask', points: SEED, group: 6 });
        job.draw({ frame: 3, type: 'mask', points: SEED, group: 5, label_id: 2 });
        job.draw({ frame: 3, type: 'polyline', points: POLYGON, group: 5 });
        await run(0, 5);
        expect(pointsOf('mask')[3]).toEqual([SEED, SEED, moved({ type: 'mask', points: MASK }, 3).points]);
        expect(pointsOf('mask')[5]).toEqual([moved({ type: 'mask', points: MASK }, 5).points]);
    });

    test.each([
        ['join what is known, and it keeps its type', false],
        ['start the object anew where the server drops them', true],
    ])('of another type %s', async (_, dropsSeeds) => {
        server.dropsSeeds = dropsSeeds;
        job.draw({ frame: 0, type: 'polygon', points: POLYGON });
        job.draw({ frame: 3, type: 'rectangle', points: BOX });
        job.draw({ frame: 5, type: 'mask', points: MASK, source: 'auto' }); // replaced
        await run(0, 5);
        expect(server.frames('init_tracking')).toEqual(dropsSeeds ? [0, 0, 3] : [0]);
        expect(pointsOf('rectangle')).toEqual({ 3: [BOX] });
        expect(pointsOf('mask')).toEqual({});
        expect(pointsOf('polygon')).toEqual({
            ...shifted('polygon', POLYGON, range(0, 2), 0),
            ...shifted('polygon', [10, 20, 30, 20, 30, 40, 10, 40], [4, 5], 3),
        });
    });

    test('that are masks of what started as another type: it goes on as a mask only if it had to start anew', async () => {
        job.draw({ frame: 0, type: 'polygon', points: POLYGON });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        await run(0, 4);
        expect(Object.keys(pointsOf('polygon'))).toEqual(['0', '1', '2', '4']);
        expect(pointsOf('mask')).toEqual({ 3: [SEED] });

        server.dropsSeeds = true;
        await run(0, 4);
        expect(Object.keys(pointsOf('polygon'))).toEqual(['0', '1', '2']);
        expect(pointsOf('mask')).toEqual(shifted('mask', SEED, [3, 4], 3));
    });

    test('of another type count as joined where CVAT hides the states', async () => {
        server.sign = (state) => `gAAAA-${state.bank}-${state.object}-${state.revision}`;
        job.draw({ frame: 0, type: 'polygon', points: POLYGON });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        await run(0, 4);
        expect(server.frames('init_tracking')).toEqual([0]);
    });

    test('are no seeds if a program made them: they are replaced', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: SEED, source: 'auto' });
        const attributes = [{ spec_id: 22, value: 'awake' }];
        job.drawTrack(
            'rectangle',
            [
                { frame: 0, points: BOX },
                { frame: 3, points: [70, 20, 90, 40], attributes },
            ],
            { source: 'auto', label_id: 2 },
        );
        await run(0, 5);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(0, 5), 0));
        expect(keyframes(job.tracks[0])[3]).toEqual([13, 20, 33, 40]);
        expect(job.tracks[0]?.shapes.find(({ frame }) => frame === 3)?.attributes).toEqual(attributes);
        expect(job.tracks[0]?.source).toBe('auto');
    });

    test('are no seeds if the annotator does not want it, but no object is drawn twice', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: SEED });
        await run(0, 5, { 'Use other annotated frames as seeds': 'false' });
        expect(pointsOf('mask')).toEqual({ ...shifted('mask', MASK, range(0, 5), 0), 3: [SEED] });
        expect(server.requests.some(({ type, shapes }) => type === 'track' && shapes)).toBe(false);
    });

    test('what was tracked before is replaced, what was corrected since is a seed', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 8);
        const [wrong] = job.shapes.filter(({ frame }) => frame === 4);
        job.edit(wrong!, { points: SEED });
        await run(2, 6);
        expect(pointsOf('mask')).toEqual({
            ...shifted('mask', MASK, [0, 1, 2, 7, 8], 0),
            ...shifted('mask', SEED, [3, 4, 5, 6], 4),
        });
        expect(job.commits).toHaveLength(2);
        expect(job.commits[1]?.deleted.shapes.map(({ frame }) => frame)).toEqual([3, 5, 6]);
    });

    test('of a track: its keyframes, but not those that were tracked before', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 6, points: [70, 20, 90, 40] },
        ]);
        await run(0, 9);
        const before = keyframes(job.tracks[0]);
        expect(before[6]).toEqual([70, 20, 90, 40]);
        expect(before[9]).toEqual([73, 20, 93, 40]);

        const corrected = job.tracks[0]!.shapes.find(({ frame }) => frame === 3)!;
        corrected.points = [50, 20, 60, 40];
        await run(1, 8);
        const after = keyframes(job.tracks[0]);
        expect(after[2]).toEqual([49, 20, 59, 40]);
        expect(after[3]).toEqual([50, 20, 60, 40]);
        expect(after[4]).toEqual([51, 20, 61, 40]);
        expect(after[5]).toEqual([69, 20, 89, 40]);
        expect(after[6]).toEqual([70, 20, 90, 40]);
        expect(after[8]).toEqual([72, 20, 92, 40]);
        expect(after[9]).toEqual([73, 20, 93, 40]);
    });

    test('of a track: what was tracked before the page was loaded anew is known', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 9, { [TRACKS]: 'true' });
        action = new AITracker(coreOf([MASKBANK], server.call), screen, () => storage);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 3)!.points = [50, 20, 60, 40];
        await run(3, 9, { 'Only up to the outlines around this frame': 'true' });
        const found = { 2: [49, 20, 59, 40], 3: [50, 20, 60, 40], 9: [56, 20, 66, 40] };
        expect(keyframes(job.tracks[0])).toMatchObject({ 0: BOX, 1: [11, 20, 31, 40], ...found });
        expect(notices).toEqual([]);
    });

    test('of a track: in a browser that keeps nothing, what was tracked before stays, which is said once', async () => {
        const forgetful = (): AITracker =>
            new AITracker(coreOf([MASKBANK], server.call), screen, () => {
                throw new DOMException('Access is denied for this document.', 'SecurityError');
            });
        action = forgetful();
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }]);
        await run(0, 9);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 3)!.points = [50, 20, 60, 40];
        await run(3, 8);
        expect(keyframes(job.tracks[0])[8]).toEqual([55, 20, 65, 40]);
        expect(notices).toEqual([['warning', expect.stringContaining('This browser keeps nothing, or has no room')]]);
        action = forgetful();
        await expect(run(3, 8)).rejects.toThrow('These objects are annotated already');
    });

    test('of a track: without seeds its keyframes are replaced', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 2, points: [70, 20, 90, 40] },
        ]);
        await run(0, 4, { 'Use other annotated frames as seeds': 'false' });
        expect(keyframes(job.tracks[0])[2]).toEqual([12, 20, 32, 40]);
    });

    test('a person said that the object is gone: it stays so up to the next outline', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 3, points: BOX, outside: true },
            { frame: 5, points: BOX, outside: true },
            { frame: 6, points: [70, 20, 90, 40] },
        ]);
        await run(0, 8);
        expect(keyframes(job.tracks[0])[5]).toBe('outside');
        expect(visible(job.tracks[0]!)).toEqual([0, 1, 2, 6, 7, 8, ...range(9, 19)]);
        expect(keyframes(job.tracks[0])[8]).toEqual([72, 20, 92, 40]);
        // Its state goes along all the time, so that the tracker does not forget it.
        expect(server.requests.every(({ states }) => !states || states.length === 1)).toBe(true);
    });

    test('backward as well', async () => {
        job.drawTrack('rectangle', [
            { frame: 2, points: BOX },
            { frame: 5, points: BOX, outside: true },
            { frame: 8, points: [70, 20, 90, 40] },
        ]);
        await run(9, 0);
        expect(visible(job.tracks[0]!)).toEqual([0, 1, 2, 3, 4, 8, 9, ...range(10, 19)]);
    });

    test('also on the frame right before the current one', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 4, points: BOX, outside: true },
            { frame: 5, points: [70, 20, 90, 40] },
        ]);
        await run(5, 2);
        expect(visible(job.tracks[0]!)).toEqual([0, 1, 2, 3, ...range(5, 19)]);
    });

    test('an end right behind the current frame moves', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 3, points: BOX, outside: true },
        ]);
        await run(2, 4);
        expect(visible(job.tracks[0]!)).toEqual([0, 1, 2, 3, 4]);
    });

    test('what is behind the target frame stays', async () => {
        job.drawTrack('rectangle', [
            { frame: 9, points: BOX },
            { frame: 3, points: BOX, outside: true },
            { frame: 0, points: BOX },
        ]);
        await run(2, 5, { 'Use other annotated frames as seeds': 'false' });
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 5), ...range(9, 19)]);
    });

    test('a gap right behind the current frame is no end: it stays', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 6, points: BOX, outside: true },
            { frame: 10, points: [70, 20, 90, 40] },
        ]);
        await run(5, 12);
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 5), ...range(10, 19)]);
        expect(keyframes(job.tracks[0])[12]).toEqual([72, 20, 92, 40]);
    });

    test('a person said that the object is gone right behind the target frame: it stays so', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 6, points: BOX, outside: true },
        ]);
        await run(0, 5);
        await run(0, 9);
        expect(visible(job.tracks[0]!)).toEqual(range(0, 5));
    });

    test('nothing is left to track', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 1, type: 'mask', points: SEED });
        await expect(run(0, 1)).rejects.toThrow('annotated already, on every frame up to frame 1.');
        expect(server.requests).toEqual([]);
    });
});

describe('only up to the outlines around the current frame', () => {
    const AROUND = { 'Only up to the outlines around this frame': 'true' };
    /** A mask that moves along with the frames; objects of different groups lie below each other. */
    const at = (frame: number, group = 0): number[] =>
        moved({ type: 'mask', points: MASK }, frame).points.map((n, i) => (i % 2 && i > 4 ? n + 10 * group : n));
    const drawn = (frame: number, group = 0): Shape =>
        job.draw({ frame, type: 'mask', points: at(frame, group), group });

    /** Runs over the whole job, and then corrects what was found on a frame. */
    async function correct(frame: number, group = 0): Promise<void> {
        await run(0, 19);
        const found = job.shapes.find((each) => each.frame === frame && each.group === group)!;
        job.edit(found, { points: at(frame + 40, group) });
        server.requests.length = 0;
    }

    test('the frames that the correction can change, and no others', async () => {
        [0, 5, 12, 19].forEach((frame) => drawn(frame));
        await correct(8);
        const messages = await run(8, 2, { ...AROUND, 'Use other annotated frames as seeds': 'false' });
        expect(messages[0]).toBe('Starting: the tracker learns all that is outlined…');
        const seen = server.requests.map(({ type, frame }) => [type, frame]);
        expect(seen.slice(0, 6)).toEqual([
            ['init_tracking', 5],
            ...[0, 8, 12, 19, 5].map((frame) => ['track', frame]), // all outlines count
        ]);
        expect(server.frames('track').slice(5, 12)).toEqual(range(6, 12));
        expect(server.frames('track').slice(-6)).toEqual([11, 10, 9, 8, 7, 6]);
        const [commit] = job.commits.slice(-1);
        expect(commit?.deleted.shapes.map(({ frame }) => frame)).toEqual([6, 7, 9, 10, 11]);
        expect(commit?.created.shapes.map(({ frame }) => frame)).toEqual([6, 7, 9, 10, 11]);
        expect(pointsOf('mask')[9]).toEqual([at(49)]);
        expect(pointsOf('mask')[4]).toEqual([at(4)]);
        expect(summaries.at(-1)?.text).toContain('Tracked 7 frames, up to frame 12.');
    });

    test('up to the target where no outline comes after it', async () => {
        drawn(0);
        await correct(15);
        await run(15, 17, AROUND);
        expect(new Set(server.frames('track'))).toEqual(new Set(range(0, 17)));
        expect(job.commits[1]?.deleted.shapes.map(({ frame }) => frame)).toEqual([...range(1, 14), 16, 17]);
    });

    test('also back from it where a program drew the object before all outlines', async () => {
        drawn(16);
        await run(16, 3);
        job.edit(
            job.shapes.find(({ frame }) => frame === 8)!,
            { points: at(48) },
        );
        const messages = await run(8, 19, AROUND);
        expect(server.frames('init_tracking').slice(1)).toEqual([8, 16, 8]);
        expect(messages.at(-1)).toMatch(/^Frame 3 \(21 of 21\)/);
        expect(job.commits[1]?.created.shapes.map(({ frame }) => frame)).toEqual([...range(9, 15), 7, 6, 5, 4, 3]);
        expect(pointsOf('mask')[3]).toEqual([at(43)]);
        expect(job.shapes).toHaveLength(14);
        expect(summaries.at(-1)?.text).toContain('Tracked 13 frames, up to frame 16.');

        job = new StoredJob(range(0, 19));
        drawn(6, 3); // no program drew it
        await run(6, 9, AROUND);
        expect(job.commits[0]?.created.shapes.map(({ frame }) => frame)).toEqual([7, 8, 9]);
    });

    test('objects that were not corrected there stay', async () => {
        [0, 12].forEach((frame) => [1, 2].forEach((group) => drawn(frame, group)));
        await correct(8, 2);
        const others = job.shapes.filter(({ group }) => group === 1);
        await run(8, 19, AROUND);
        expect(job.shapes.filter(({ group }) => group === 1)).toEqual(others);
        expect(new Set(job.commits[1]?.created.shapes.map(({ group, frame }) => `${group} ${frame}`))).toEqual(
            new Set([1, 2, 3, 4, 5, 6, 7, 9, 10, 11].map((frame) => `2 ${frame}`)),
        );
        expect(server.requests.every(({ shapes, states }) => (states ?? shapes)?.length === 1)).toBe(true);
    });

    test('several objects, each up to its own outlines', async () => {
        [0, 3, 12].forEach((frame) => drawn(frame, 1));
        [0, 5, 16].forEach((frame) => drawn(frame, 2));
        [0, 3, 12].forEach((frame) => drawn(frame, 4));
        [1, 2, 4].forEach((group) => drawn(8, group));
        const messages = await run(8, 19, AROUND);
        expect(server.frames('init_tracking')).toEqual([3, 12, 5, 16]);
        const made = (group: number): number[] =>
            job.commits[0]!.created.shapes.filter((each) => each.group === group).map(({ frame }) => frame);
        expect([1, 2, 4].map(made)).toEqual([
            [4, 5, 6, 7, 9, 10, 11],
            [6, 7, 9, 10, 11, 12, 13, 14, 15],
            [4, 5, 6, 7, 9, 10, 11],
        ]);
        const counts = messages.flatMap((message) => /\((\d+) of 40\)/.exec(message)?.[1] ?? []).map(Number);
        expect(counts).toEqual(range(1, 40));
        expect(summaries[0]?.text).toContain('Tracked 13 frames, up to frame 16.');
        expect(job.commits).toHaveLength(1);
    });

    test('what fails in a later run leaves what was found in those before', async () => {
        [0, 12].forEach((frame) => drawn(frame, 1));
        [5, 16].forEach((frame) => drawn(frame, 2));
        [1, 2].forEach((group) => drawn(8, group));
        server.before = ({ type, frame }) => {
            if (type === 'init_tracking' && frame === 5) {
                throw new ServerError('It has no area.', 400);
            }
        };
        await run(8, 19, AROUND);
        expect(new Set(job.commits[0]!.created.shapes.map(({ group }) => group))).toEqual(new Set([1]));
        const kept = 'What was tracked up to frame 12 is kept. Then run this on frame 8 again.';
        expect(notices).toEqual([['error', `Frame 5: It has no area. ${kept}`]]);
    });

    test('what is said names the object that was tracked, and what is left to do', async () => {
        [7, 9].forEach((frame) => drawn(frame, 1)); // nothing of it is to be tracked
        [0, 16].forEach((frame) => drawn(frame, 2));
        [1, 2].forEach((group) => drawn(8, group));
        server.confidence = (_, frame, seeded) => (seeded ? 1 : frame === 12 ? 0.1 : 0.9);
        await run(8, 19, { ...AROUND, 'Stop when unsure': 0.3 });
        const stopped = 'Stopped on frame 12: the confidence for koi (group 2) is 0.10.';
        expect(notices).toEqual([['info', `${stopped} Correct it here, then run this on frame 12.`]]);
        expect(summaries[0]?.text).toContain('koi (group 2): unsure on 12.');
    });

    test('what is said where it is unsure leaves nothing that was tracked before', async () => {
        [0, 18].forEach((frame) => drawn(frame));
        await correct(8);
        const before = job.shapes.filter(({ source }) => source === 'auto').map(({ clientID }) => clientID);
        server.confidence = (_, frame, seeded) => (seeded ? 1 : frame === 12 ? 0.1 : 0.9);
        await run(8, 19, { ...AROUND, 'Stop when unsure': 0.3 });
        expect(notices.at(-1)?.[1]).toMatch(/Correct it here, then run this on frame 12\.$/);
        job.edit(
            job.shapes.find(({ frame }) => frame === 12)!,
            { points: at(60) },
        );
        await run(12, 19, { ...AROUND, 'Stop when unsure': 0.3 });
        const left = job.shapes.filter(({ clientID }) => before.includes(clientID));
        expect(left.map(({ frame }) => frame)).toEqual([19]); // behind the outlines around both corrections
    });

    test.each([
        ['before the correction', 4, []],
        ['along with another object', 12, [0, 8, 16]],
        ['before another object is begun with', 12, [5, 8, 14]],
    ])('it stops %s: the correction is run again, too', async (_, unsure, others) => {
        [0, 8, 16].forEach((frame) => drawn(frame, 1));
        others.forEach((frame) => drawn(frame, 2));
        server.confidence = (object, frame, seeded) => (seeded ? 1 : !object && frame === unsure ? 0.1 : 0.9);
        await run(8, 19, { ...AROUND, 'Stop when unsure': 0.3 });
        expect(notices[0]?.[1]).toContain(`Correct it here, then run this on frame ${unsure} and on frame 8 again.`);
    });

    test('that CVAT hides the states is said once', async () => {
        server.sign = (state) => `gAAAA-${state.bank}-${state.object}-${state.revision}`;
        [1, 2].forEach((group) => [0, 8 + group, 12 + group].forEach((frame) => drawn(frame, group)));
        [1, 2].forEach((group) => drawn(8, group));
        await run(8, 19, { ...AROUND, 'Stop when unsure': 0.3 });
        expect(notices.filter(([, sentence]) => sentence.includes('hides how sure'))).toHaveLength(1);
    });

    test('it has to be clear which outlines are of an object', async () => {
        drawn(0);
        await correct(8);
        [17, 17].forEach((frame) => drawn(frame));
        await expect(run(8, 19, AROUND)).rejects.toThrow('On frame 17 there are several shapes');
        expect(server.requests).toEqual([]);
    });

    test('an outline without a group on a shape of one is refused', async () => {
        [0, 12].forEach((frame) => drawn(frame, 2));
        await run(0, 12);
        job.draw({ frame: 8, type: 'mask', points: at(9, 2) });
        await expect(run(8, 19, AROUND)).rejects.toThrow(
            'What you outlined here has no group, but what it lies on has',
        );
    });

    test('a shape that is drawn over is deleted once, though its object is in two runs', async () => {
        drawn(16);
        await run(16, 3);
        job.draw({ frame: 8, type: 'mask', points: at(9) });
        await run(8, 19, AROUND);
        const deleted = job.commits[1]!.deleted.shapes.map(({ frame }) => frame);
        expect(deleted.sort((one, other) => one - other)).toEqual(range(3, 15));
    });

    test('between outlines there are only deleted frames', async () => {
        [3, 5].forEach((frame) => job.draw({ frame, ...moved({ type: 'mask', points: MASK }, frame) }));
        job.deleted.add(4);
        await expect(run(5, 5, AROUND)).rejects.toThrow('There is nothing to track between this frame');
    });

    test('outlines on deleted frames do not count', async () => {
        [0, 5, 12, 16].forEach((frame) => drawn(frame));
        drawn(8);
        job.deleted.add(5).add(12);
        await run(8, 19, AROUND);
        expect(server.frames('init_tracking')).toEqual([0, 16]);
        expect(job.commits[0]?.created.shapes.map(({ frame }) => frame)).toEqual(
            range(1, 15).filter((frame) => ![5, 8, 12].includes(frame)),
        );
    });

    test('between outlines side by side there is nothing to do', async () => {
        [7, 8, 9].forEach((frame) => drawn(frame));
        await expect(run(8, 19, AROUND)).rejects.toThrow('There is nothing to track between this frame');
    });

    test('a person said that a track is gone right behind the outline before: it stays so', async () => {
        job.drawTrack('rectangle', [
            { frame: 5, points: BOX },
            { frame: 6, points: BOX, outside: true },
            { frame: 9, points: BOX },
        ]);
        await run(9, 19, AROUND);
        expect(visible(job.tracks[0]!)).toEqual([5, ...range(9, 19)]);
    });

    test('what a program made is no correction', async () => {
        drawn(0);
        await run(0, 19);
        await expect(run(8, 19, AROUND)).rejects.toThrow("Nothing on this frame is a person's work");
    });

    test('a track, between its keyframes', async () => {
        job.drawTrack(
            'rectangle',
            [0, 10].map((frame) => ({ frame, points: BOX })),
        );
        await run(0, 19);
        const before = keyframes(job.tracks[0]);
        const found = job.tracks[0]!.shapes.find(({ frame }) => frame === 4)!;
        found.points = [50, 20, 60, 40];
        server.requests.length = 0;
        await run(4, 19, { ...AROUND, [TRACKS]: 'true' });
        expect(Math.max(...server.frames('track'))).toBe(10);
        const after = keyframes(job.tracks[0]);
        expect(after[5]).toEqual([51, 20, 61, 40]);
        expect(range(10, 19).map((frame) => after[frame])).toEqual(range(10, 19).map((frame) => before[frame]));
    });

    test('cancelled: what is shown is the frame of the correction', async () => {
        [0, 5, 12].forEach((frame) => drawn(frame));
        await correct(8);
        await run(8, 19, AROUND, () => server.frames('track').includes(7));
        expect(shownFrames.at(-1)).toBe(8);
    });
});

describe('shapes as a track', () => {
    const convert = { [TRACKS]: 'true' };

    test('with an end, and attributes where CVAT has them', async () => {
        const attributes = [
            { spec_id: 21, value: 'old' },
            { spec_id: 22, value: 'asleep' },
        ];
        const shape = job.draw({
            ...{ frame: 3, type: 'polygon', points: POLYGON, label_id: 2, group: 4, z_order: 3, attributes },
        });
        await run(3, 6, convert);
        expect(job.shapes).toEqual([]);
        const [track] = job.tracks;
        expect(track).toMatchObject({ label_id: 2, group: 4, frame: 3, source: 'semi-auto' });
        expect(track?.attributes).toEqual([{ spec_id: 21, value: 'old' }]);
        expect(track?.shapes[0]).toMatchObject({
            frame: 3,
            z_order: 3,
            attributes: [{ spec_id: 22, value: 'asleep' }],
        });
        expect(track?.shapes[1]).toMatchObject({ frame: 4, z_order: 3, attributes: [] });
        expect(visible(track!)).toEqual([3, 4, 5, 6]);
        expect(job.commits[0]?.deleted.shapes.map(({ clientID }) => clientID)).toEqual([shape.clientID]);
    });

    test('backward, with its end behind the first shape', async () => {
        job.draw({ frame: 6, type: 'rectangle', points: BOX });
        await run(6, 4, convert);
        expect(visible(job.tracks[0]!)).toEqual([4, 5, 6]);
    });

    test('backward, in the place of masks that a program made', async () => {
        job.draw({ frame: 5, type: 'polygon', points: POLYGON });
        job.draw({ frame: 4, type: 'mask', points: MASK, source: 'auto' });
        await run(5, 3, convert);
        expect(job.shapes).toEqual([]);
        expect(job.tracks[0]?.shapes.map(({ type }) => type)).toEqual(Array(4).fill('polygon'));
        expect(visible(job.tracks[0]!)).toEqual([3, 4, 5]);
    });

    test('without an end where the object is gone at the end', async () => {
        server.isGone = (_, frame) => frame >= 5;
        job.draw({ frame: 3, type: 'polygon', points: POLYGON });
        await run(3, 6, convert);
        expect(Object.entries(keyframes(job.tracks[0])).map(([frame, what]) => [frame, what === 'outside'])).toEqual([
            ...[3, 4].map((frame) => [String(frame), false]),
            ['5', true],
        ]);
    });

    test('its end is on no deleted frame', async () => {
        job.deleted.add(7);
        job.draw({ frame: 3, type: 'rectangle', points: BOX });
        await run(3, 6, convert);
        expect(keyframes(job.tracks[0])[8]).toBe('outside');
    });

    test('later shapes of the object become keyframes', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        job.draw({ frame: 2, type: 'rectangle', points: [70, 20, 90, 40] });
        job.draw({ frame: 9, type: 'rectangle', points: BOX });
        await run(0, 4, convert);
        expect(job.shapes).toEqual([]);
        expect(keyframes(job.tracks[0])).toEqual({
            ...{ 0: BOX, 1: [69, 20, 89, 40], 2: [70, 20, 90, 40], 3: [71, 20, 91, 40], 4: [72, 20, 92, 40] },
            ...{ 5: 'outside', 9: BOX, 10: 'outside' }, // it was a shape on frame 9 only, and is seen on no other
        });
    });

    test('that a program made of shapes of its own is its work, but what a person made stays so', async () => {
        job.draw({ frame: 5, type: 'rectangle', points: BOX, source: 'auto' });
        job.draw({ frame: 12, type: 'rectangle', points: [60, 20, 80, 40] });
        await run(5, 19, convert);
        expect(job.tracks[0]).toMatchObject({ source: 'semi-auto' });
        await run(7, 19, convert);
        expect(keyframes(job.tracks[0])).toMatchObject({ 12: [60, 20, 80, 40], 13: [61, 20, 81, 40] });

        job = new StoredJob(range(0, 19));
        job.draw({ frame: 5, type: 'rectangle', points: BOX, source: 'auto' });
        await run(5, 9, convert);
        expect(job.tracks[0]).toMatchObject({ source: 'auto' });
    });

    test('from a later frame: what lies before it is of the track, and no second one is made from there', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19);
        const shown = (frame: number): Shape => job.shapes.find((shape) => shape.frame === frame)!;
        job.edit(shown(10), { points: [60, 20, 80, 40] });
        await run(10, 19, convert);
        expect(job.shapes).toEqual([]);
        expect(keyframes(job.tracks[0])).toMatchObject({ 0: BOX, 9: [19, 20, 39, 40], 11: [61, 20, 81, 40] });
        expect(visible(job.tracks[0]!)).toEqual(range(0, 19));

        const corrected = job.tracks[0]!.shapes.find(({ frame }) => frame === 4)!;
        corrected.points = [50, 20, 60, 40];
        await run(4, 19, convert);
        expect(job.tracks).toHaveLength(1);
        expect(keyframes(job.tracks[0])).toMatchObject({ 3: [13, 20, 33, 40], 5: [51, 20, 61, 40] });
        expect(keyframes(job.tracks[0])).toMatchObject({ 9: [59, 20, 79, 40], 10: [60, 20, 80, 40] });
    });

    test('that stops early: a later outline stays one', async () => {
        server.confidence = (_, frame) => (frame === 7 ? 0.2 : 0.9);
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        job.draw({ frame: 15, type: 'rectangle', points: [60, 20, 80, 40] });
        await run(0, 19, { ...convert, 'Stop when unsure': 0.5 });
        expect(job.shapes).toEqual([]);
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 7), 15]);
        server.confidence = () => 0.9;
        await run(7, 19, convert);
        expect(keyframes(job.tracks[0])).toMatchObject({ 14: [59, 20, 79, 40], 15: [60, 20, 80, 40] });
        expect(visible(job.tracks[0]!)).toEqual(range(0, 19));
        expect(job.tracks).toHaveLength(1);
    });

    test('elsewhere is left alone where it is unclear whose it is', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        job.draw({ frame: 9, type: 'rectangle', points: BOX });
        job.draw({ frame: 9, type: 'rectangle', points: [60, 20, 80, 40] });
        await run(0, 4, convert);
        expect(job.shapes.map(({ frame }) => frame)).toEqual([9, 9]);
        expect(visible(job.tracks[0]!)).toEqual(range(0, 4));
    });

    test('elsewhere with other attributes that stay the same is another object', async () => {
        const called = (value: string): Shape['attributes'] => [{ spec_id: 21, value }];
        job.draw({ frame: 0, type: 'rectangle', points: BOX, label_id: 2, attributes: called('A') });
        job.draw({ frame: 9, type: 'rectangle', points: BOX, label_id: 2, attributes: called('B') });
        job.draw({ frame: 15, type: 'rectangle', points: BOX, label_id: 2, attributes: called('A') });
        await run(0, 4, convert);
        expect(job.shapes.map(({ frame }) => frame)).toEqual([9]);
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 4), 15]);
    });

    test('of several objects without groups: each gets one', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        job.draw({ frame: 0, type: 'rectangle', points: [110, 20, 130, 40] });
        await run(0, 4, convert);
        expect(job.tracks.map(({ group }) => group)).toEqual([1, 2]);
    });

    test('later shapes of another type become keyframes of its type, but masks stay', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        job.draw({ frame: 2, type: 'polygon', points: POLYGON });
        job.draw({ frame: 3, type: 'rectangle', points: [10, 20, 30, 30], rotation: 90 });
        job.draw({ frame: 4, type: 'mask', points: MASK });
        job.draw({ frame: 5, type: 'mask', points: MASK, source: 'auto' });
        await run(0, 5, convert);
        expect(job.shapes.map(({ frame, type }) => [frame, type])).toEqual([[4, 'mask']]);
        const shapes = job.tracks[0]?.shapes ?? [];
        expect(shapes.every(({ type }) => type === 'rectangle')).toBe(true);
        expect(shapes.map(({ rotation }) => rotation)).toEqual([0, 0, 0, 90, 0, 0, 0]);
        expect(keyframes(job.tracks[0])).toMatchObject({ 2: [5, 5, 15, 15], 3: [10, 20, 30, 30], 6: 'outside' });
        expect(server.requests.find(({ frame }) => frame === 4)?.shapes).toBeUndefined();
    });

    test('tracked on: its end moves', async () => {
        job.draw({ frame: 3, type: 'rectangle', points: BOX });
        await run(3, 6, convert);
        await run(4, 9);
        expect(visible(job.tracks[0]!)).toEqual(range(3, 9));
    });

    test('learns what was outlined before, when it is tracked on', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 5)!.points = [50, 20, 60, 40];
        server.requests.length = 0;
        await run(10, 19, convert);
        const seen = server.requests.map(({ type, frame }) => [type, frame]);
        expect(seen.slice(0, 4)).toEqual([['init_tracking', 10], ...[0, 5, 10].map((frame) => ['track', frame])]);

        action = new AITracker(coreOf([MASKBANK], server.call), screen, () => new MemoryStorage());
        server.requests.length = 0;
        await run(10, 19, { ...convert, 'Use other annotated frames as seeds': 'false' });
        expect(server.frames('track')).toEqual(range(11, 19)); // another browser: a program may have made all of it
    });

    test('switched off by a person: what a program drew from there on is taken away', async () => {
        const switchOff = async (options: Options): Promise<void> => {
            job = new StoredJob(range(0, 19));
            storage.clear();
            job.draw({ frame: 0, type: 'rectangle', points: BOX });
            await run(0, 19, convert);
            const keyframe = (frame: number): Keyframe => job.tracks[0]!.shapes.find((each) => each.frame === frame)!;
            keyframe(8).outside = true;
            keyframe(15).points = [60, 20, 80, 40];
            notices.length = 0;
            server.requests.length = 0;
            await run(8, 19, { ...convert, ...options });
        };
        await switchOff({});
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 7), ...range(15, 19)]);
        expect(server.requests).toEqual([]);
        expect(notices).toEqual([['info', 'koi, switched off on frame 8, is removed from frames 9-14.']]);
        await switchOff({ 'Only up to the outlines around this frame': 'true' });
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 7), ...range(15, 19)]);
        await switchOff({ 'Use other annotated frames as seeds': 'false' });
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 7), ...range(15, 19)]);
    });

    test('gone where the tracker said so is not switched off by a person', async () => {
        server.isGone = (_, frame) => frame >= 8 && frame <= 12;
        job.draw({ frame: 0, type: 'polygon', points: POLYGON, group: 1 });
        await run(0, 19, convert);
        const before = keyframes(job.tracks[0]);
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 7), ...range(13, 19)]);
        await expect(run(8, 19, convert)).rejects.toThrow('The track is switched off on this frame');
        job.draw({ frame: 8, type: 'rectangle', points: [110, 20, 130, 40], group: 2 });
        await run(8, 19, convert);
        expect(keyframes(job.tracks[0])).toEqual(before);
    });

    test('a person’s keyframes behind a gap stay, without seeds as well', async () => {
        const drawn = [
            { frame: 0, points: BOX },
            { frame: 8, points: BOX, outside: true },
            { frame: 12, points: [60, 20, 80, 40] },
        ];
        job.drawTrack('rectangle', drawn);
        job.draw({ frame: 8, type: 'rectangle', points: [110, 20, 130, 40], group: 2 });
        await run(8, 19, { ...convert, 'Use other annotated frames as seeds': 'false' });
        expect(keyframes(job.tracks[0])).toEqual({ 0: BOX, 8: 'outside', 12: [60, 20, 80, 40] });
    });

    test('switched off right behind what is drawn over it: both count', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 8)!.outside = true;
        job.draw({ frame: 7, type: 'rectangle', points: [18, 20, 38, 42] });
        await run(7, 19, convert);
        expect(job.shapes).toEqual([]);
        expect(visible(job.tracks[0]!)).toEqual(range(0, 7));
        expect(job.tracks[0]?.shapes.map(({ frame }) => frame)).toEqual(range(0, 8));
        await expect(run(7, 19, convert)).rejects.toThrow('annotated already');
        expect(keyframes(job.tracks[0])).toMatchObject({ 7: [18, 20, 38, 42], 8: 'outside' });
    });

    test('switched off by a person, of an object that stands still, where it had ended before', async () => {
        action = new AITracker(coreOf([MASKBANK], stillStanding(server.call)), screen, () => storage);
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 5, convert);
        await run(5, 12, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 6)!.outside = true;
        await run(0, 12, convert);
        expect(visible(job.tracks[0]!)).toEqual(range(0, 5));
    });

    test('switched off, what a person set of it from then on stays', async () => {
        const is = (value: string): Keyframe['attributes'] => [{ spec_id: 22, value }];
        job.draw({ frame: 0, type: 'rectangle', points: BOX, label_id: 2, attributes: is('walks') });
        await run(0, 19, convert);
        const keyframe = (frame: number): Keyframe => job.tracks[0]!.shapes.find((each) => each.frame === frame)!;
        keyframe(8).attributes = is('swims');
        keyframe(5).outside = true;
        await run(5, 9, convert);
        expect(visible(job.tracks[0]!)).toEqual([...range(0, 4), ...range(10, 19)]);
        expect(keyframe(8).attributes).toEqual(is('swims'));
    });

    test('switched off beside an object that is done', async () => {
        job.draw({ frame: 5, type: 'rectangle', points: BOX, group: 1 });
        await run(5, 9, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 5)!.outside = true;
        job.draw({ frame: 5, type: 'mask', points: MASK, group: 2 });
        job.draw({ frame: 6, type: 'mask', points: MASK, group: 2 });
        await run(5, 6, convert);
        expect(visible(job.tracks[0]!)).toEqual(range(7, 9));
    });

    test('switched off on its first frame: nothing is left of it', async () => {
        job.draw({ frame: 5, type: 'rectangle', points: BOX });
        await run(5, 9, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 5)!.outside = true;
        await run(5, 19, convert);
        expect(job.tracks).toEqual([]);
    });

    test('undone, what it was before is known all the same', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        const first = structuredClone([...job.tracks]);
        for (const frame of [4, 9]) {
            job.tracks[0]!.shapes.find((each) => each.frame === frame)!.points = [50, 20, 60, 40];
            await run(frame, 19, convert);
        }
        job.commit({ shapes: [], tags: [], tracks: first }, { shapes: [], tags: [], tracks: [...job.tracks] });
        await run(4, 19, convert);
        expect(keyframes(job.tracks[0])).toMatchObject({ 5: [15, 20, 35, 40] });
    });

    test('switched off by a person right behind the frame it is run on: it stays off', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 8)!.outside = true;
        await run(7, 19, convert);
        expect(visible(job.tracks[0]!)).toEqual(range(0, 7));
        job.draw({ frame: 7, type: 'rectangle', points: [110, 20, 130, 40], group: 2 });
        await run(7, 19, convert); // for another object
        const koi = job.tracks.find(({ group }) => group !== 2)!;
        expect(visible(koi)).toEqual(range(0, 7));
    });

    test('switched off, with other objects: these are tracked', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX, group: 1 });
        await run(0, 19, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 8)!.outside = true;
        job.draw({ frame: 8, type: 'rectangle', points: [110, 20, 130, 40], group: 2 });
        await run(8, 19, convert);
        expect(job.tracks.map((track) => visible(track))).toEqual([range(8, 19), range(0, 7)]);
    });

    test('switched off where nobody knows who drew the rest: that is said', async () => {
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 8, points: BOX, outside: true },
            { frame: 9, points: BOX },
        ]);
        await expect(run(8, 19, convert)).rejects.toThrow('The track is switched off on this frame');
    });

    test.each([{}, { 'Only up to the outlines around this frame': 'true' }])(
        'what a person draws over it takes its place: %j',
        async (options) => {
            job.draw({ frame: 0, type: 'rectangle', points: BOX });
            await run(0, 19, convert);
            const drawn = job.draw({ frame: 8, type: 'polygon', points: [20, 20, 40, 20, 40, 50, 20, 50] });
            await run(8, 19, { ...convert, ...options });
            expect(job.shapes).toEqual([]);
            expect(job.tracks).toHaveLength(1);
            expect(keyframes(job.tracks[0])).toMatchObject({
                ...{ 0: BOX, 8: [20, 20, 40, 50], 9: [21, 20, 41, 50], 19: [31, 20, 51, 50] },
            });
            const [start] = server.requests.filter(({ type }) => type === 'init_tracking').slice(1);
            expect([start?.frame, start?.shapes?.[0]?.type]).toEqual(
                'Only up to the outlines around this frame' in options ? [0, 'rectangle'] : [8, 'polygon'],
            );
            expect(job.commits.at(-1)?.deleted.shapes.map(({ clientID }) => clientID)).toEqual([drawn.clientID]);
            await run(4, 19, convert); // it counts as a person's from then on
            expect(keyframes(job.tracks[0])).toMatchObject({ 8: [20, 20, 40, 50] });
        },
    );

    test('that a program made alone, drawn over: the rest stays a program’s', async () => {
        const made = range(0, 9).map((frame) => ({
            frame,
            points: moved({ type: 'rectangle', points: BOX }, frame).points,
        }));
        job.drawTrack('rectangle', made, { source: 'auto' });
        job.draw({ frame: 3, type: 'rectangle', points: [14, 20, 34, 44] });
        await run(3, 9, convert);
        expect(job.tracks[0]).toMatchObject({ source: 'semi-auto' });
        await run(0, 9, convert);
        expect(keyframes(job.tracks[0])).toMatchObject({
            2: [13, 20, 33, 44],
            3: [14, 20, 34, 44],
            4: [15, 20, 35, 44],
        });
    });

    test('touching it: it is another object, and gets a group of its own', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.draw({ frame: 8, type: 'rectangle', points: [37, 20, 60, 40] });
        await run(8, 19, convert);
        const ofGroup = (group: number): Track | undefined => job.tracks.find((track) => track.group === group);
        expect(keyframes(ofGroup(0))).toMatchObject({ 19: [29, 20, 49, 40] });
        expect(keyframes(ofGroup(1))).toMatchObject({ 19: [48, 20, 71, 40] });
    });

    test.each(['polyline', 'points', 'cuboid'])('%s over it stays, and so does such a track', async (type) => {
        const points = [18, 20, 38, 20, 38, 40, 18, 40, 18, 20, 38, 20, 38, 40, 18, 40];
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.draw({ frame: 8, type, points });
        await run(8, 19, convert);
        expect(job.shapes.map((shape) => shape.type)).toEqual([type]);
        expect(keyframes(job.tracks[0])).toMatchObject({ 8: [18, 20, 38, 40] });

        job = new StoredJob(range(0, 19));
        job.drawTrack(type, [{ frame: 0, points }]);
        job.draw({ frame: 8, type: 'rectangle', points: [18, 20, 38, 40] });
        await run(8, 9, convert);
        expect(keyframes(job.tracks[0])).toEqual({ 0: points });
    });

    test('a thin polygon in its box is drawn over it', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 9, convert);
        job.draw({ frame: 0, type: 'polygon', points: [10, 20, 12, 20, 30, 40, 28, 40] });
        await run(0, 9, convert);
        expect(job.tracks).toHaveLength(1);
        expect(job.shapes).toEqual([]);
    });

    test('on a frame that is not the current one: it is left for a run there', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.draw({ frame: 5, type: 'rectangle', points: [15, 20, 35, 42] });
        job.draw({ frame: 12, type: 'rectangle', points: [22, 20, 42, 42] });
        job.draw({ frame: 8, type: 'rectangle', points: [110, 20, 130, 40] });
        await run(8, 19, convert);
        expect(job.shapes.map(({ frame }) => frame)).toEqual([5, 12]);
        await run(5, 19, convert);
        await run(12, 19, convert);
        expect(job.shapes).toEqual([]);
        expect(keyframes(job.tracks.find(({ group }) => !group))).toMatchObject({
            ...{ 5: [15, 20, 35, 42], 12: [22, 20, 42, 42], 13: [23, 20, 43, 42] },
        });
    });

    test('a thin outline far from a thin one is another object', async () => {
        const pole = (x: number): number[] => [x, 10, x + 2, 10, x + 2, 310, x, 310];
        job.draw({ frame: 0, type: 'polygon', points: pole(200) });
        await run(0, 3, convert);
        job.draw({ frame: 0, type: 'polygon', points: pole(0) });
        await run(0, 3, convert);
        expect(job.tracks.map((track) => keyframes(track)[0]).sort()).toEqual([pole(0), pole(200)].sort());
    });

    test('masks over it are of their own object, run after run, and a person’s count', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: [97, 50, 100, 52] });
        await run(0, 12, convert);
        job.draw({ frame: 0, type: 'mask', points: MASK.with(4, 60).with(6, 62) });
        job.draw({ frame: 10, type: 'mask', points: moved({ type: 'mask', points: MASK }, 7).points });
        await run(0, 12, convert);
        await run(0, 12, convert);
        expect(pointsOf('mask')[10]).toEqual([moved({ type: 'mask', points: MASK }, 7).points]);
        expect(Object.values(pointsOf('mask')).every((own) => own.length === 1)).toBe(true);
    });

    test('that another track of the object begins on the way is said', async () => {
        job.draw({ frame: 12, type: 'rectangle', points: BOX });
        await run(12, 19, convert);
        job.draw({ frame: 3, type: 'rectangle', points: BOX });
        notices.length = 0;
        await run(3, 19, convert);
        expect(notices).toEqual([
            [
                'warning',
                expect.stringMatching(/^On frame 12 there is a track .* it will be drawn twice: cancel this, or undo/),
            ],
        ]);
    });

    test('of another group, or far from a person’s keyframe: it is another object', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX, group: 1 });
        await run(0, 19, convert);
        job.draw({ frame: 8, type: 'rectangle', points: [18, 20, 38, 40], group: 2 });
        await run(8, 19, convert);
        expect(job.tracks).toHaveLength(2);

        job = new StoredJob(range(0, 19));
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 19, convert);
        job.draw({ frame: 0, type: 'rectangle', points: [25, 20, 45, 40] });
        await run(0, 19, convert);
        expect(job.tracks).toHaveLength(2);
    });

    test('a mask over it is refused: CVAT has no tracks of masks', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: [97, 50, 100, 52] });
        await run(0, 9, convert);
        job.draw({ frame: 3, type: 'mask', points: MASK });
        await expect(run(3, 9, convert)).rejects.toThrow(
            'A mask on frame 3 lies on a track of the same label and group',
        );
        expect(job.shapes).toHaveLength(1);
    });

    test('tracked back: a correction is tracked back from as well', async () => {
        job.draw({ frame: 16, type: 'rectangle', points: BOX });
        await run(16, 3, convert);
        job.tracks[0]!.shapes.find(({ frame }) => frame === 8)!.points = [50, 20, 60, 40];
        await run(8, 19, { ...convert, 'Only up to the outlines around this frame': 'true' });
        expect(job.tracks).toHaveLength(1);
        expect(keyframes(job.tracks[0])).toMatchObject({ 3: [45, 20, 55, 40], 9: [51, 20, 61, 40], 16: BOX });
        expect(visible(job.tracks[0]!)).toEqual(range(3, 16));
        expect(summaries.at(-1)?.text).toContain('Tracked 13 frames, up to frame 16.');
    });

    test('in another browser: it is said how to track it anew', async () => {
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await run(0, 9, convert);
        action = new AITracker(coreOf([MASKBANK], server.call), screen, () => new MemoryStorage());
        const said = 'Of a track that was tracked in another browser, all keyframes count as yours';
        await expect(run(3, 9, convert)).rejects.toThrow(said);
        const around = { ...convert, 'Only up to the outlines around this frame': 'true' };
        await expect(run(3, 9, around)).rejects.toThrow(said);
    });

    test('masks stay shapes', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 2, convert);
        expect(job.tracks).toEqual([]);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '2']);
        expect(notices).toEqual([]);
    });
});

describe('the end of a run', () => {
    test('in short: what was tracked, where objects are gone or unsure, and what to outline next', async () => {
        server.confidence = (object, frame) => (object === 1 && frame >= 4 && frame <= 6 ? 0.3 + frame / 100 : 0.97);
        server.isGone = (object, frame) => object === 0 && [2, 7, 8].includes(frame);
        job.draw({ frame: 0, type: 'mask', points: MASK, group: 4 });
        job.draw({ frame: 0, type: 'polygon', points: POLYGON, group: 6 });
        job.draw({ frame: 0, type: 'ellipse', points: ELLIPSE, label_id: 2 });
        await run(0, 9);
        const text =
            'Tracked 9 frames, up to frame 9. koi (group 4): gone on 2, 7-8. koi (group 6): unsure on 4-6. ' +
            'Outline next: frame 4, koi (group 6).';
        expect(summaries).toEqual([{ text, frame: 4 }]);
        expect(shownFrames).toEqual([]);
    });

    test('boxes in which it is hard to tell what is meant, at the start and on the way', async () => {
        server.confidence = () => 0.97;
        server.expectedJ = (_, frame) => ({ 0: 0.45, 2: 0.8, 4: 0.69 })[frame]!;
        job.draw({ frame: 0, type: 'mask', points: MASK, group: 4 });
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 2, points: BOX },
            { frame: 4, points: BOX },
        ]);
        job.draw({ frame: 0, type: 'rectangle', points: BOX, label_id: 2 });
        await run(0, 5);
        expect(summaries[0]?.text).toContain(
            ' Hard to make out in its box: turtle on 0, koi on 0, koi on 4; a polygon drawn over the box says more. ',
        );
    });

    test('objects without a group are numbered', async () => {
        server.confidence = (object) => (object === 1 ? 0.8 : 0.97);
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }]);
        job.drawTrack('polygon', [{ frame: 0, points: POLYGON }]);
        await run(0, 1);
        expect(summaries[0]?.text).toBe('Tracked 1 frame, up to frame 1. Outline next: frame 1, koi 2.');
    });

    test('next to an outline another one is worth less, at the start and on the way, backwards too', async () => {
        const doubts: Record<number, number> = { 18: 0.6, 12: 0.6, 9: 0.5, 6: 0.65 };
        server.confidence = (_, frame) => doubts[frame] ?? 0.97;
        job.draw({ frame: 19, type: 'mask', points: MASK });
        job.draw({ frame: 8, type: 'mask', points: MASK });
        await run(19, 0);
        expect(summaries.map(({ frame }) => frame)).toEqual([12]);
        expect(summaries[0]?.text).toMatch(/ Outline next: frame 12, koi\.$/);
    });

    test('the frame to outline next is shown, if that is asked for', async () => {
        server.confidence = (_, frame) => (frame === 4 ? 0.6 : 0.97);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9);
        expect(shownFrames).toEqual([]);
        await run(0, 9, { 'Go to the frame to outline next': 'true' });
        expect(summaries.map(({ frame }) => frame)).toEqual([4, 4]);
        expect(shownFrames).toEqual([4]);
    });

    test('where the tracker is sure, no frame is named', async () => {
        server.confidence = () => 0.97;
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9, { 'Go to the frame to outline next': 'true' });
        expect(shownFrames).toEqual([]);
        const text =
            'Tracked 9 frames, up to frame 9. ' +
            'No frame is worth another outline: it is not expected to mend much anywhere.';
        expect(summaries).toEqual([{ text, frame: null }]);
    });

    test('where the tracker was unsure and stopped: that frame is shown already', async () => {
        server.confidence = (_, frame) => (frame === 4 ? 0.4 : 0.9);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9, { 'Stop when unsure': 0.6 });
        expect(summaries).toEqual([{ text: 'Tracked 4 frames, up to frame 4. koi: unsure on 4.', frame: null }]);
    });

    test('where CVAT hides the states: no word of how sure it is, and no score', async () => {
        server.sign = (state) => `gAAAA-${state.bank}-${state.object}-${state.revision}`;
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 3);
        expect(summaries).toEqual([{ text: 'Tracked 3 frames, up to frame 3.', frame: null }]);
        expect(job.shapes.map((shape) => 'score' in shape)).toEqual([false, false, false, false]);
    });

    test('nothing is said of what is not kept, or not begun', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9, { 'On cancel': 'keep nothing' }, () => server.requests.length > 3);
        await run(0, 9, {}, () => true);
        expect(summaries).toEqual([]);
        await run(0, 9, {}, () => server.requests.length > 9);
        expect(summaries.map(({ text }) => text)).toEqual([
            expect.stringMatching(/^Tracked 4 frames, up to frame 4\./),
        ]);
    });

    test('it is said once CVAT has taken over the results', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const commit = job.commit.bind(job);
        let before: number | undefined;
        job.commit = (created, deleted) => {
            before = summaries.length;
            commit(created, deleted);
        };
        await run(0, 2);
        expect([before, summaries.length]).toEqual([0, 1]);
    });

    test('a new run closes what an earlier one left to be read', async () => {
        server.before = ({ frame }) => {
            if (frame === 4) {
                throw new ServerError('It is too dark.', 400);
            }
        };
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9);
        expect(closings).toEqual([0]);
        await run(0, 2);
        expect(closings).toEqual([0, 2]);
    });
});

test('shapes have the confidence as their score, corrections and seeds have none', async () => {
    server.confidence = (_, frame, seeded) => (seeded ? 1 : 1 - frame / 10);
    job.draw({ frame: 0, type: 'mask', points: MASK });
    job.draw({ frame: 2, type: 'mask', points: MASK });
    await run(0, 3);
    const scores = Object.fromEntries(job.shapes.map(({ frame, score }) => [frame, score]));
    // Between two outlines both ways count: here they hardly agree, on one pixel of nine.
    expect(scores).toEqual({ 0: undefined, 1: expect.closeTo((0.9 + 1 / 9) / 2, 2), 2: undefined, 3: 0.7 });
});

describe('stop when unsure', () => {
    const unsure = { 'Stop when unsure': 0.6 };

    test('on the first frame below the threshold, which is shown', async () => {
        server.confidence = (object, frame) => (object === 1 && frame >= 4 ? 0.41 : 0.9);
        job.draw({ frame: 0, type: 'mask', points: MASK, label_id: 1 });
        job.draw({ frame: 0, type: 'polygon', points: POLYGON, label_id: 2 });
        await run(0, 9, unsure);
        expect(server.frames('track')).toEqual([1, 2, 3, 4]);
        expect(Object.keys(pointsOf('polygon'))).toEqual(['0', '1', '2', '3', '4']);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '2', '3', '4']);
        expect(shownFrames).toEqual([4]);
        expect(notices).toEqual([
            ['info', expect.stringContaining('Stopped on frame 4: the confidence for turtle is 0.41.')],
        ]);
        expect(job.commits).toHaveLength(1);
    });

    test('never by default', async () => {
        server.confidence = () => 0;
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9);
        expect(server.frames('track')).toEqual(range(1, 9));
    });

    test('not where a person outlined the object', async () => {
        server.confidence = (_, frame) => (frame === 3 ? 0.1 : 0.9);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.draw({ frame: 3, type: 'mask', points: MASK });
        await run(0, 5, unsure);
        expect(server.frames('track')).toEqual([3, 0, ...range(1, 5), 0, 3, 2, 1]);
    });

    test('says once that it cannot, where CVAT hides the states', async () => {
        server.sign = (state) => `gAAAA-${state.bank}-${state.object}-${state.revision}`;
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const messages = await run(0, 5, unsure);
        expect(server.frames('track')).toEqual(range(1, 5));
        expect(notices).toEqual([['warning', expect.stringContaining('it will not stop when it is unsure')]]);
        expect(messages).toContain('Frame 5 (5 of 5)');
    });
});

describe('cancelled', () => {
    /** Says so as soon as some frames were answered. */
    const after = (frames: number) => () => server.frames('track').length >= frames;

    test('what was done is kept, and drawn', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { frame: 4, points: BOX },
        ]);
        await run(0, 9, {}, after(4));
        expect(server.frames('track')).toEqual([4, 0, 1, 2]);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '2']);
        expect(Object.keys(keyframes(job.tracks[0]))).toEqual(['0', '1', '2', '3', '4']);
        expect(shownFrames).toEqual([0]);
    });

    test('nothing is kept', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9, { 'On cancel': 'keep nothing' }, after(2));
        expect(job.shapes).toHaveLength(1);
        expect(job.commits.map(({ created }) => created.shapes)).toEqual([[]]);
    });

    test('nothing is kept either if it was the last frame', async () => {
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 2, { 'On cancel': 'keep nothing' }, after(2));
        expect(job.shapes).toHaveLength(1);
    });

    test('before anything was done', async () => {
        job.draw({ frame: 0, type: 'polygon', points: POLYGON });
        await run(0, 9, { [TRACKS]: 'true' }, () => true);
        expect(server.frames('track')).toEqual([]);
        expect(job.shapes).toHaveLength(1);
    });
});

describe('the tracker fails', () => {
    const FULL = 'These objects already have as many corrected frames as the tracker can remember; start again.';

    function failOn(frame: number, error: Error): void {
        server.before = (request) => {
            if (request.frame === frame) {
                throw error;
            }
        };
    }

    test('midway: its sentence is shown, and what was done is kept', async () => {
        failOn(4, new ServerError(FULL, 400));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '2', '3']);
        expect(notices).toEqual([['error', `Frame 4: ${FULL} What was tracked up to frame 3 is kept.`]]);
    });

    test('at once: a notice that stays says why, and CVAT shows another one in few words', async () => {
        failOn(0, new ServerError(FULL, 400));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await expect(runAction(action, job, 0, {})).rejects.toThrow(/^AI tracker: nothing was tracked\.$/);
        expect(notices).toEqual([['error', FULL]]);
        expect(job.commits).toEqual([]);
    });

    test('until then the page is not left without a question', async () => {
        const held: number[] = [];
        failOn(4, new ServerError(FULL, 400));
        const fail = server.before;
        server.before = (request) => {
            held.push(holds);
            fail(request);
        };
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9);
        failOn(0, new ServerError(FULL, 400));
        await expect(run(0, 9)).rejects.toThrow();
        expect([new Set(held), holds]).toEqual([new Set([1]), 0]);
    });

    test('midway: or not kept', async () => {
        failOn(4, new ServerError(FULL, 400));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9, { 'On cancel': 'keep nothing' });
        expect(job.shapes).toHaveLength(1);
        expect(notices).toEqual([['error', `Frame 4: ${FULL} Nothing of this run is kept.`]]);
    });

    test('midway: a state is too old, and CVAT passes on the status only', async () => {
        failOn(2, new ServerError('410 Client Error: Gone for url: http://nuclio:8070/api/function_invocations', 410));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await run(0, 9);
        expect(notices).toEqual([
            [
                'error',
                'Frame 2: The tracker no longer remembers these objects; start tracking again. ' +
                    'What was tracked up to frame 1 is kept.',
            ],
        ]);
    });

    test('at once: nothing is changed, and CVAT shows the sentence', async () => {
        failOn(0, new ServerError('It lies wholly under other objects; track them one after the other.', 400));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await expect(run(0, 9)).rejects.toThrow('It lies wholly under other objects; track them one after the other.');
        expect(job.commits).toEqual([]);
        expect(notices).toEqual([]);
    });

    test('on the first frame to track', async () => {
        failOn(1, new ServerError('413 Client Error: Request Entity Too Large for url: http://nuclio:8070/', 413));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await expect(run(0, 9)).rejects.toThrow(
            'These are more objects, or larger frames, than the tracker takes at once; track fewer',
        );
    });

    test.each([
        ['polygon', POLYGON, [5, 5, 15, 5]],
        ['polygon', POLYGON, [5, 5, 15, 5, 10, 15, 10]],
        ['rectangle', BOX, [10, 20, 30]],
        ['ellipse', ELLIPSE, [50, 50, NaN, 45]],
        ['mask', MASK, [6, 100, 50, 102, 51]],
    ])('it answers with a %s that is none: what was done is kept', async (type, points, broken) => {
        const odd = coreOf([MASKBANK], async (...args) => {
            const reply = (await server.call(...args)) as { shapes: unknown[]; states: unknown[] };
            const isLate = (args[2] as { frame: number }).frame >= 4;
            return { ...reply, shapes: isLate ? [{ type, points: broken }] : reply.shapes };
        });
        action = new AITracker(odd, screen, () => storage);
        job.draw({ frame: 0, type, points });
        await run(0, 9);
        const sentence = `The tracker answered with an outline that CVAT cannot draw (${type} of ${broken.length} numbers)`;
        expect(notices).toEqual([['error', expect.stringContaining(sentence)]]);
        expect(job.shapes.map(({ frame }) => frame).sort()).toEqual([0, 1, 2, 3]);
        await expect(run(3, 9)).rejects.toThrow(sentence);
    });

    test.each([[{ type: 'points', points: [1, 2] }], [{ type: 'mask' }], ['text']])(
        'it answers with %j',
        async (shape) => {
            const odd = coreOf([MASKBANK], async (...args) => ({
                ...Object(await server.call(...args)),
                shapes: [shape],
            }));
            action = new AITracker(odd, screen, () => storage);
            job.draw({ frame: 0, type: 'mask', points: MASK });
            await expect(run(0, 9)).rejects.toThrow('choose another one, or tell the administrator.');
        },
    );

    test('it answers for too few objects', async () => {
        const call = server.call;
        const few = coreOf([MASKBANK], async (...args) => {
            const reply = (await call(...args)) as { shapes: unknown[]; states: unknown[] };
            return { shapes: reply.shapes.slice(1), states: reply.states.slice(1) };
        });
        action = new AITracker(few, screen, () => storage);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await expect(run(0, 9)).rejects.toThrow('The tracker was asked for 1 objects, but did not answer for as many.');
    });
});

describe('the tracker is busy', () => {
    beforeEach(() => {
        vi.useFakeTimers();
    });
    afterEach(() => {
        vi.useRealTimers();
    });

    /** The next so many requests for a frame are answered as by a function whose workers are all at work. */
    function busyOn(frame: number, times: number): void {
        server.before = (request) => {
            if (request.frame === frame && times-- > 0) {
                throw new ServerError('503 Server Error: Service Unavailable for url: http://nuclio:8070/', 503);
            }
        };
    }

    /** What a run leads to, in no real time. */
    async function settled<T>(running: Promise<T>): Promise<T> {
        let isSettled = false;
        const settle = (): void => {
            isSettled = true;
        };
        running.then(settle, settle);
        while (!isSettled) {
            await vi.advanceTimersByTimeAsync(100);
        }
        return running;
    }

    test.each([0, 4])('on frame %d: the annotator sees that it waits, and then all goes on', async (frame) => {
        busyOn(frame, 3);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const messages = await settled(run(0, 6));
        expect(messages.filter((message) => message === 'Waiting for the tracker…')).toHaveLength(3);
        expect(messages.at(-1)).toBe('Frame 6 (6 of 6), confidence 0.90');
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(0, 6), 0));
        expect(server.requests).toHaveLength(7 + 3);
        expect(notices).toEqual([]);
    });

    test('the time that is left is said along with each frame', async () => {
        server.before = ({ type }) => {
            vi.setSystemTime(Date.now() + (type === 'track' ? 2000 : 30_000)); // the start takes longer than a frame
        };
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const messages = await settled(run(0, 5));
        expect(messages).toEqual([
            'Starting: the tracker learns what is outlined on frame 0…',
            'Frame 1 (1 of 5), confidence 0.90',
            'Frame 2 (2 of 5), confidence 0.90, 6 s left',
            'Frame 3 (3 of 5), confidence 0.90, 4 s left',
            'Frame 4 (4 of 5), confidence 0.90, 2 s left',
            'Frame 5 (5 of 5), confidence 0.90',
        ]);
    });

    test('for ever: what was done is kept', async () => {
        busyOn(3, Infinity);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        await settled(run(0, 6));
        const sentence =
            'The tracker is busy, too slow for so many objects, or out of reach; try again, with fewer objects if it ' +
            'stays so.';
        expect(notices).toEqual([['error', `Frame 3: ${sentence} What was tracked up to frame 2 is kept.`]]);
        expect(Object.keys(pointsOf('mask'))).toEqual(['0', '1', '2']);
    });

    test('CVAT cannot say for minutes whether a frame is deleted', async () => {
        job.frames.get = async (frame) => {
            if (frame >= 3) {
                throw new ServerError('Network Error.', 0);
            }
            return { deleted: false };
        };
        job.draw({ frame: 0, type: 'rectangle', points: BOX });
        await settled(run(0, 9, { [TRACKS]: 'true' }));
        expect(visible(job.tracks[0]!)).toEqual([0, 1, 2]);
        expect(notices).toEqual([['error', 'Frame 3: Network Error. What was tracked up to frame 2 is kept.']]);
    });

    test.each([0, 3])('CVAT cannot say at once whether frame %d is deleted', async (frame) => {
        const { get } = job.frames;
        let times = 2;
        job.frames.get = async (each) => {
            if (each === frame && times-- > 0) {
                throw new ServerError('Network Error', 0);
            }
            return get(each);
        };
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const messages = await settled(run(0, 6));
        expect(messages.filter((message) => message.startsWith('Waiting for '))).toHaveLength(2);
        expect(pointsOf('mask')).toEqual(shifted('mask', MASK, range(0, 6), 0));
        expect(notices).toEqual([]);
    });

    test('CVAT cannot say whether the current frame is deleted, and the annotator cancels', async () => {
        job.frames.get = () => Promise.reject(new ServerError('Network Error', 0));
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const started = Date.now();
        await settled(run(0, 6, {}, () => Date.now() - started > 3000));
        expect([job.shapes.length, server.requests.length, notices.length]).toEqual([1, 0, 0]);
    });

    test.each([0, 3])('on frame %d, and the annotator cancels meanwhile', async (frame) => {
        busyOn(frame, Infinity);
        job.draw({ frame: 0, type: 'mask', points: MASK });
        const started = Date.now();
        await settled(run(0, 6, {}, () => Date.now() - started > 20_000));
        expect(Date.now() - started).toBeLessThan(21_000);
        expect(Object.keys(pointsOf('mask'))).toHaveLength(Math.max(1, frame));
        expect(notices).toEqual([]);
    });
});

test('it is offered for the objects that it can track', () => {
    const state = { clientID: 1, points: [], rotation: 0, occluded: false, outside: false, zOrder: 0, lock: false };
    const offered = (shapeType: string): boolean => action.isApplicableForObject({ ...state, shapeType });
    expect(['mask', 'polygon', 'ellipse', 'rectangle'].every(offered)).toBe(true);
    expect(['points', 'polyline', 'cuboid', 'skeleton'].some(offered)).toBe(false);
});
