import { beforeEach, describe, expect, test } from 'vitest';
import { AITracker } from '../src/ts/action';
import type { Shape } from '../src/ts/cvat-types';
import { coreOf, MemoryStorage, runAction, StoredJob } from './cvat';
import { MASKBANK, Server } from './server';

const AROUND = { 'Only up to the outlines around this frame': 'true' };
const LAST = 59;

let job: StoredJob;
let server: Server;
let action: AITracker;
let notices: string[];

beforeEach(async () => {
    job = new StoredJob(Array.from({ length: LAST + 1 }, (_, frame) => frame));
    server = new Server();
    notices = [];
    const screen = {
        trackers: () => [MASKBANK],
        notify: (_: string, sentence: string) => void notices.push(sentence),
        showSummary: () => {},
        closeNotices: () => {},
        showFrame: async () => {},
    };
    const storage = new MemoryStorage();
    action = new AITracker(coreOf([MASKBANK], server.call), screen, () => storage);
});

async function run(frame: number, options: Record<string, string | number> = {}): Promise<void> {
    const single = { 'Polygons, boxes and ellipses become tracks': 'false' };
    await runAction(action, job, frame, { 'Target frame': LAST, ...single, ...options });
}

/** A mask that is full, of so many columns, as the tracker finds koi of a group on a frame. */
function koi(group: number, frame: number, { right = 0, columns = 20 } = {}): Pick<Shape, 'frame' | 'type' | 'points'> {
    const [left, top] = [10 + frame + right, 50 * group];
    return { frame, type: 'mask', points: [0, columns * 10, left, top, left + columns - 1, top + 9] };
}

async function trackTwo(): Promise<void> {
    [1, 2].forEach((group) => job.draw({ ...koi(group, 0), group }));
    await run(0);
}

const on = (frame: number): Shape[] => job.shapes.filter((shape) => shape.frame === frame);
const automatic = (frame: number, group: number): Shape =>
    on(frame).find((shape) => shape.source === 'auto' && shape.group === group)!;
/** How many shapes there are of each group on a frame. */
const groupsOn = (frame: number): number[] =>
    on(frame)
        .map(({ group }) => group)
        .sort();

const FRAMES = [4, 5, 6, LAST];

describe('a new mask over an automatic one of group 1, on frame 5', () => {
    beforeEach(async () => {
        await trackTwo();
        job.draw(koi(1, 5, { right: 2 }));
        server.requests.length = 0;
    });

    test('a run from it leaves all that the earlier one made', async () => {
        await run(5);
        expect(FRAMES.map(groupsOn)).toEqual([
            [1, 2],
            [0, 1, 2],
            [0, 1, 2],
            [0, 1, 2],
        ]);
        expect(notices).toEqual([expect.stringContaining('on frame 5 has no group')]);
    });

    test('a run around it is refused', async () => {
        await expect(run(5, AROUND)).rejects.toThrow('has no group, but what it lies on has');
    });

    test('a run from the first frame does not learn it', async () => {
        await run(0);
        expect(server.requests.filter(({ shapes }) => shapes).map(({ frame }) => frame)).toEqual([0]);
        expect(FRAMES.map(groupsOn)).toEqual([
            [1, 2],
            [0, 1, 2],
            [1, 2],
            [1, 2],
        ]);
    });

    test.each([{}, AROUND])('after G it is a third object, of which a run leaves duplicates %j', async (options) => {
        job.group(on(5).at(-1)!, automatic(5, 1));
        await run(5, options);
        expect(FRAMES.map(groupsOn)).toEqual([
            [1, 2],
            [2, 3],
            [1, 2, 3],
            [1, 2, 3],
        ]);
        expect(notices).toEqual([]);
    });

    test('after G a run from the first frame does not learn it, and draws the object twice on its frame', async () => {
        job.group(on(5).at(-1)!, automatic(5, 1));
        await run(0);
        expect(server.requests.filter(({ shapes }) => shapes).map(({ frame }) => frame)).toEqual([0]);
        expect(FRAMES.map(groupsOn)).toEqual([
            [1, 2],
            [1, 2, 3, 3],
            [1, 2],
            [1, 2],
        ]);
        expect(notices).toEqual([]);
    });
});
