/** What a person said of an object, beside its outline, on its way from shape to shape and to tracks. */
import { beforeEach, describe, expect, test } from 'vitest';
import { AITracker } from '../src/ts/action';
import type { Attribute, Shape } from '../src/ts/cvat-types';
import { coreOf, interpolated, MemoryStorage, runAction, StoredJob, withSentence } from './cvat';
import { MASKBANK, moved, screenOf, Server } from './server';

const BOX = [10, 20, 30, 40];
const MASK = [0, 2, 1, 3, 100, 50, 102, 51];
const OTHER = [0, 6, 110, 50, 112, 51]; // over it on frame 10
const TRACKS = 'Polygons, boxes and ellipses become tracks';
const AROUND = { 'Only up to the outlines around this frame': 'true' };

let job: StoredJob;
let server: Server;
let action: AITracker;
let storage: MemoryStorage;
let notices: string[];

function pageLoaded(): void {
    action = new AITracker(coreOf([MASKBANK], server.call), screenOf(job, notices), () => storage);
}

beforeEach(() => {
    [job, server, storage, notices] = [
        new StoredJob(Array.from({ length: 20 }, (_, i) => i)),
        new Server(),
        new MemoryStorage(),
        [],
    ];
    pageLoaded();
});

const run = (frame: number, target: number, options: Record<string, string> = {}): Promise<void> =>
    withSentence(runAction(action, job, frame, { 'Target frame': target, [TRACKS]: 'false', ...options }), notices);
const is = (state: string, name = 'unnamed'): Attribute[] => [
    { spec_id: 21, value: name },
    { spec_id: 22, value: state },
];
const on = (frame: number): Shape => job.shapes.find((shape) => shape.frame === frame)!;
const valueOf = ({ attributes }: { attributes: Attribute[] }, id: number): string | undefined =>
    attributes.find(({ spec_id }) => spec_id === id)?.value;
const drawMask = (frame: number, attributes: Attribute[], more: Partial<Shape> = {}): Shape =>
    job.draw({ frame, ...moved({ type: 'mask', points: MASK }, frame), label_id: 2, attributes, ...more });
const drawBox = (frame: number, attributes: Attribute[], more: Partial<Shape> = {}): Shape =>
    job.draw({ frame, ...moved({ type: 'rectangle', points: BOX }, frame), label_id: 2, attributes, ...more });

describe('drawn over what was tracked', () => {
    test.each([0, 4])('a new shape, on which CVAT sets defaults, keeps what was set (group %i)', async (group) => {
        drawMask(0, is('awake', 'Ann'), { group });
        await run(0, 19);
        drawMask(10, is('unset'), { points: OTHER });
        await run(10, 19, AROUND);
        expect(job.shapes.filter((each) => each.frame === 10)).toHaveLength(1);
        expect(job.numbers.map((frame) => valueOf(on(frame), 22))).toEqual(job.numbers.map(() => 'awake'));
        expect(valueOf(on(10), 21)).toBe('Ann');
    });

    test('what a person set on the new shape wins', async () => {
        drawMask(0, is('awake', 'Ann'));
        await run(0, 19);
        drawMask(10, is('asleep'), { points: OTHER });
        await run(10, 19, AROUND);
        expect(valueOf(on(10), 22)).toBe('asleep');
        expect(valueOf(on(10), 21)).toBe('Ann');
        expect(valueOf(on(19), 22)).toBe('asleep');
    });

    test('in a track that shapes become', async () => {
        drawBox(0, is('awake', 'Ann'));
        await run(0, 19);
        drawBox(10, is('unset'), { points: [21, 21, 41, 41] });
        await run(0, 19, { [TRACKS]: 'true' });
        const values = job.tracks[0]!.shapes.map((keyframe) => valueOf(keyframe, 22));
        expect(new Set(values.filter((value) => value !== undefined))).toEqual(new Set(['awake']));
    });

    test('over a track: what differs from the default', async () => {
        job.drawTrack('rectangle', [{ frame: 0, points: BOX, attributes: [{ spec_id: 22, value: 'awake' }] }], {
            label_id: 2,
        });
        await run(0, 19);
        drawBox(10, is('asleep'));
        await run(10, 19);
        const keyframe = job.tracks[0]!.shapes.find(({ frame }) => frame === 10)!;
        expect(valueOf(keyframe, 22)).toBe('asleep');
    });

    test('over a track that has no name yet, or another one', async () => {
        const fixed = { label_id: 2, attributes: [{ spec_id: 21, value: 'unnamed' }] };
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }], fixed);
        await run(0, 19);
        drawBox(10, is('unset', 'Ann'));
        await run(10, 19);
        expect(valueOf(job.tracks[0]!, 21)).toBe('Ann');
        expect(notices).toEqual([]);
        drawBox(10, is('unset', 'Bob'));
        await run(10, 19);
        expect(valueOf(job.tracks[0]!, 21)).toBe('Ann');
        expect(notices.join()).toMatch(/^What you set on frame 10 is lost/);
    });
});

describe('shapes that become a track', () => {
    test('what the program copied onto its shapes does not stay where the person has changed the source', async () => {
        drawBox(0, is('awake'));
        await run(0, 19);
        job.describe(on(7), is('dozing'));
        job.describe(on(0), is('asleep'));
        await run(0, 19, { [TRACKS]: 'true' });
        const track = job.tracks[0]!;
        let last: string | undefined;
        const values = job.numbers.map((frame) => {
            last = valueOf(track.shapes.find((each) => each.frame === frame) ?? { attributes: [] }, 22) ?? last;
            return last;
        });
        expect(values).toEqual(job.numbers.map((frame) => (frame === 7 ? 'dozing' : 'asleep')));
    });

    test('a name that a person gave on another frame is not lost', async () => {
        drawBox(0, is('awake'));
        drawBox(5, is('awake', 'Ann'));
        await run(0, 9, { [TRACKS]: 'true' });
        expect(valueOf(job.tracks[0]!, 21)).toBe('Ann');
    });

    test('two names: nothing is joined silently', async () => {
        drawBox(0, is('awake', 'Ann'));
        drawBox(5, is('awake', 'Bob'));
        await run(0, 9, { [TRACKS]: 'true' });
        expect(notices.join()).toMatch(/^What you set on frame 5 is lost/);
    });
});

describe('what a person set', () => {
    test('an attribute that is set back to what an earlier run gave stays', async () => {
        drawMask(0, is('no'));
        await run(0, 9);
        job.describe(on(0), is('yes'));
        await run(0, 9);
        expect(valueOf(on(7), 22)).toBe('yes');
        job.describe(on(7), is('no'));
        await run(0, 9);
        expect(valueOf(on(7), 22)).toBe('no');
    });

    test('a label that a person changed makes the shape theirs, also where it has attributes', async () => {
        drawMask(0, is('awake'));
        await run(0, 9);
        job.edit(on(5), { label_id: 1, attributes: [] }); // CVAT: source becomes semi-auto
        const changed = structuredClone(on(5));
        job.draw({ frame: 0, type: 'mask', points: MASK, label_id: 1 });
        await run(0, 9);
        expect(job.shapes.filter((each) => each.frame === 5 && each.label_id === 1)).toEqual([changed]);
    });

    test('occluded, or an attribute, on a frame of a track is no outline: CVAT copies the one before', async () => {
        job.drawTrack(
            'rectangle',
            [
                { frame: 0, points: BOX },
                { frame: 10, points: BOX, occluded: true, attributes: [{ spec_id: 22, value: 'asleep' }] },
            ],
            { label_id: 2 },
        );
        await run(0, 19);
        const track = job.tracks[0]!;
        expect(interpolated(track, 10)?.points).toEqual([20, 20, 40, 40]);
        expect(interpolated(track, 10)?.occluded).toBe(true);
        const keyframe = track.shapes.find(({ frame }) => frame === 10)!;
        expect(valueOf(keyframe, 22)).toBe('asleep');
        expect(interpolated(track, 19)?.occluded).toBe(true);
    });

    test('what is only occluded is no correction; a box that was moved as well is an outline', async () => {
        const occluded = { frame: 10, points: BOX, occluded: true };
        job.drawTrack('rectangle', [{ frame: 0, points: BOX }, occluded]);
        await expect(run(10, 19, AROUND)).rejects.toThrow('Nothing on this frame is a person');
        job.commit({ shapes: [], tags: [], tracks: [] }, { shapes: [], tags: [], tracks: [...job.tracks] });
        job.drawTrack('rectangle', [
            { frame: 0, points: BOX },
            { ...occluded, points: [11, 20, 31, 40] },
        ]);
        await run(0, 19);
        expect(interpolated(job.tracks[0]!, 10)?.points).toEqual([11, 20, 31, 40]);
    });
});

test('undone several times, saved and loaded anew, it is known what the action made', async () => {
    job.drawTrack('rectangle', [{ frame: 0, points: BOX }]);
    await run(0, 9);
    const first = structuredClone([...job.tracks]);
    for (const frame of [2, 4, 6]) {
        job.tracks[0]!.shapes.find((each) => each.frame === frame)!.points = [50 + frame, 20, 70 + frame, 40];
        await run(frame, 9);
    }
    job.commit({ shapes: [], tags: [], tracks: first }, { shapes: [], tags: [], tracks: [...job.tracks] }); // undo
    pageLoaded();
    server.isGone = () => true;
    await run(0, 9);
    expect(job.numbers.filter((frame) => interpolated(job.tracks[0]!, frame))).toEqual([0]);
});

describe('what was not tracked of a person’s track', () => {
    const path = [
        { frame: 0, points: BOX },
        { frame: 18, points: [110, 20, 130, 40] },
    ];
    const left = (frame: number): number | null => {
        const shown = interpolated(job.tracks[0]!, frame);
        return shown && Math.round(shown.points![0]!);
    };

    test.each([
        [0, 9, [10, 17]],
        [18, 9, [1, 8]],
        [6, 9, [10, 17]],
    ])('from %i to %i: stays where CVAT interpolated it', async (from, target, [first, last]) => {
        job.drawTrack('rectangle', path);
        const look = (): (number | null)[] => job.numbers.slice(first, last! + 1).map(left);
        const before = look();
        await run(from, target);
        expect(look()).toEqual(before);
        await run(0, 19); // what was added for that is no outline of a person's
        expect(left(10)).not.toBe(before[0]);
    });

    test.each([
        ['ellipse', [50, 50, 60, 45], false],
        ['polygon', [5, 5, 15, 5, 10, 15], false],
        ['rectangle', BOX, true],
    ])('an %s as well, and towards a keyframe where it is gone (%#)', async (type, points, outside) => {
        const end = { frame: 18, points: points.map((number) => number + 54), outside };
        job.drawTrack(type, [{ frame: 0, points }, end]);
        const before = [10, 14, 17].map(left);
        await run(0, 9);
        expect([10, 14, 17].map(left)).toEqual(before);
    });

    test('what was found is not lost where CVAT cannot say what it was', async () => {
        job.drawTrack('rectangle', path);
        server.before = ({ frame }) => {
            job.annotations.get = frame === 9 ? () => Promise.reject(new Error('Network Error')) : job.annotations.get;
        };
        await run(0, 9);
        expect(job.tracks[0]!.shapes.map(({ frame }) => frame)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 18]);
    });

    test('also where it is gone on the target frame, or the frame behind is deleted', async () => {
        job.drawTrack('rectangle', path);
        const before = [11, 12].map(left);
        job.deleted.add(10);
        server.isGone = () => true;
        await run(0, 9);
        expect([9, 11, 12].map(left)).toEqual([null, ...before]);
        expect(job.tracks[0]!.shapes.map(({ frame }) => frame)).toEqual([0, 1, 11, 18]);
    });
});

test('objects that a person put into one group are not drawn twice by a second run', async () => {
    drawMask(0, is('awake'), { group: 1 });
    drawMask(0, is('awake'), { group: 1, points: [0, 6, 200, 50, 202, 51] });
    await run(0, 9);
    expect(notices.join()).toMatch(/group of its own/);
    expect(job.shapes).toHaveLength(20);
    for (const frame of [0, 3]) {
        const later = `tracked already, on frame ${frame + 1}-9`;
        await expect(run(frame, 9)).rejects.toThrow(later);
    }
    expect(job.shapes).toHaveLength(20);
});
