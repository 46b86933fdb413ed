import { ahead } from './ahead';
import type { Found } from './joining';
import { joinSweeps } from './joining';
import type { Outline } from './outlines';
import { isWhole, OUTLINE_TYPES, sameOutline } from './outlines';
import { Cancelled, patiently, statusOf } from './patience';
import type { Certainty } from './states';
import { readState } from './states';

/** One object to track, and what a person said of it on other frames. */
export interface Target {
    start: Outline;
    annotated: ReadonlyMap<number, Outline | null>; // by frame, also of others than those to come; null: it is gone
    absent: ReadonlySet<number>; // all frames for which a person said so
}

export type TrackerRequest =
    | { type: 'init_tracking'; frame: number; shapes: Outline[] }
    | { type: 'track'; frame: number; states: unknown[]; shapes?: (Outline | null)[] };

export interface Options {
    from: number;
    frames: readonly number[]; // to track through, in order
    useSeeds: boolean; // whether annotated outlines are sent along
    stopBelow: number; // confidence
    isDeleted(frame: number): Promise<boolean>;
    cancelled(): boolean;
    onFrame(frame: number, lowestConfidence: number | null): void;
    onFrameBack(frame: number): void; // of the way back from the last later outline
    onWait(): void; // whenever the tracker is busy or away, and is asked again later
    onUnreadable(): void; // once, if a state hides its confidence
}

export type End =
    | { reason: 'finished' | 'cancelled' }
    | { reason: 'unsure'; frame: number; object: number; confidence: number }
    | { reason: 'failed'; frame: number; error: unknown };

/** What was found of an object on a frame. */
export interface Prediction {
    outline: Outline | null; // null: it is gone
    confidence: number | null; // null: CVAT hides it
}

/** A box in which it is hard to tell what is meant: the mask that was found there may be wrong. */
export interface HardBox {
    frame: number;
    object: number;
}

const REFUSED = 400; // the status of a request that the function refuses
const HARD_BELOW = 0.7; // J of the mask in a box, as it is expected; below, half of the masks are wrong

export interface Tracked {
    done: number[]; // frames, in the order of tracking
    hardBoxes: HardBox[];
    found: Map<number, Prediction>[]; // by object and frame; not where a person said what is there
    end: End;
}

interface Reply {
    shapes: (Outline | null)[];
    states: unknown[];
}

/** The answer on a frame with outlines, and which of these have not reached the function. */
interface Seen {
    answer: Reply;
    dropped: { seed: Outline; index: number }[];
}

type Call = (request: TrackerRequest) => Promise<unknown>;

/**
 * Follows objects through frames, all of them with one call for each frame, which is repeated while the tracker is busy;
 * where there are later outlines, back from them as well: between two outlines both sweeps count (`fusion.ts`).
 *
 * What fails before the first frame is done is thrown; what fails later ends the tracking, and what was done stays.
 */
export async function trackObjects(send: Call, objects: readonly Target[], asked: Options): Promise<Tracked> {
    const call: Call = (request) => patiently(() => send(request), asked);
    const options = { ...asked, isDeleted: (frame: number) => patiently(() => asked.isDeleted(frame), asked) };
    const tracked = await sweepForward(call, objects, options);
    if (tracked.end.reason !== 'finished') {
        return tracked;
    }
    const isReadable = tracked.found.some((own) => [...own.values()].some(({ confidence }) => confidence !== null));
    const frames = options.useSeeds && isReadable ? framesBack(objects, tracked.done) : [];
    const backward = objects.map((): Found => new Map());
    const end = await sweepBack(call, objects, backward, frames, options);
    await joinSweeps(objects, tracked.found, backward, [options.from, ...tracked.done]);
    return { ...tracked, end };
}

/** The frames of the way back from the last later outline, in its order; none where nothing lies before one. */
export function framesBack(objects: readonly Target[], frames: readonly number[]): number[] {
    const helps = (object: Target, position: number): boolean =>
        !!object.annotated.get(frames[position]!) &&
        canGoBack(object, frames) &&
        frames.slice(0, position).some((frame) => !object.annotated.has(frame) && !object.absent.has(frame));
    const last = [...frames.keys()].findLast((position) => objects.some((object) => helps(object, position))) ?? -1;
    return frames.slice(0, last + 1).reverse();
}

/** Whether an object can be tracked back from outlines on some frames: one of another type is answered in that type. */
function canGoBack({ start, annotated }: Target, frames: readonly number[]): boolean {
    return frames.every((frame) => (annotated.get(frame) ?? start).type === start.type);
}

async function sweepForward(call: Call, objects: readonly Target[], options: Options): Promise<Tracked> {
    const done: number[] = [];
    const found = objects.map(() => new Map<number, Prediction>());
    const hardBoxes: HardBox[] = [];
    let unreadable = false;
    const ended = (end: End): Tracked => ({ done, hardBoxes, found, end });
    const noteHardBoxes = (frame: number, certainties: (Certainty | null)[]): void => {
        certainties.forEach((certainty, object) => {
            if ((certainty?.expectedJ ?? 1) < HARD_BELOW) {
                hardBoxes.push({ frame, object });
            }
        });
    };

    let states: unknown[];
    try {
        const started = await start(call, options.from, objects, options);
        noteHardBoxes(options.from, await Promise.all(started.first.map((state) => readState(state))));
        states = started.states;
    } catch (error) {
        if (error instanceof Cancelled) {
            return ended({ reason: 'cancelled' });
        }
        throw error;
    }
    for (const frame of options.frames) {
        if (options.cancelled()) {
            return ended({ reason: 'cancelled' });
        }
        let certainties: (Certainty | null)[];
        try {
            if (await options.isDeleted(frame)) {
                continue;
            }
            const seeds = objects.map((object) => (options.useSeeds && object.annotated.get(frame)) || null);
            const answer = await nextFrame(call, frame, states, seeds);
            states = answer.states;
            certainties = await Promise.all(states.map((state) => readState(state)));
            noteHardBoxes(
                frame,
                certainties.map((certainty, index) => (seeds[index] ? certainty : null)),
            );
            objects.forEach((object, index) => {
                if (!object.annotated.has(frame) && !object.absent.has(frame)) {
                    const visible = certainties[index]?.visible ?? true; // a box is answered even where it is gone
                    const outline = visible ? (answer.shapes[index] ?? null) : null;
                    found[index]?.set(frame, { outline, confidence: certainties[index]?.confidence ?? null });
                }
            });
        } catch (error) {
            if (error instanceof Cancelled) {
                return ended({ reason: 'cancelled' });
            }
            if (!done.length) {
                throw error;
            }
            return ended({ reason: 'failed', frame, error });
        }
        done.push(frame);
        if (!unreadable && certainties.includes(null)) {
            unreadable = true;
            options.onUnreadable();
        }
        const asked = objects.flatMap((_, index) => (found[index]?.has(frame) ? [index] : []));
        const confidences = asked.map((index) => certainties[index]?.confidence ?? Infinity);
        const lowest = Math.min(...confidences);
        options.onFrame(frame, Number.isFinite(lowest) ? lowest : null);
        if (lowest < options.stopBelow) {
            const object = asked[confidences.indexOf(lowest)] ?? 0;
            return ended({ reason: 'unsure', frame, object, confidence: lowest });
        }
    }
    return ended({ reason: options.cancelled() ? 'cancelled' : 'finished' });
}

/** Tracks objects back, each from its last outline on; what is found is added to `found`, by object. */
async function sweepBack(
    call: Call,
    objects: readonly Target[],
    found: readonly Found[],
    frames: readonly number[],
    options: Options,
): Promise<End> {
    const states = new Map<number, unknown>(); // by object
    for (const frame of frames) {
        if (options.cancelled()) {
            return { reason: 'cancelled' };
        }
        try {
            const known = [...states.keys()];
            const outlined = (index: number): Outline | null => objects[index]!.annotated.get(frame) || null;
            if (known.length) {
                const answer = await nextFrame(call, frame, [...states.values()], known.map(outlined));
                const certainties = await Promise.all(answer.states.map((state) => readState(state)));
                known.forEach((index, slot) => {
                    states.set(index, answer.states[slot]);
                    const { visible, confidence } = certainties[slot] ?? { visible: true, confidence: null };
                    found[index]!.set(frame, { outline: visible ? (answer.shapes[slot] ?? null) : null, confidence });
                });
            }
            const starting = [...objects.keys()].filter(
                (index) => !states.has(index) && outlined(index) && canGoBack(objects[index]!, options.frames),
            );
            if (starting.length) {
                const started = await start(
                    call,
                    frame,
                    starting.map((index) => objects[index]!),
                    options,
                );
                starting.forEach((index, slot) => states.set(index, started.states[slot]));
            }
        } catch (error) {
            return error instanceof Cancelled ? { reason: 'cancelled' } : { reason: 'failed', frame, error };
        }
        options.onFrameBack(frame);
    }
    return { reason: options.cancelled() ? 'cancelled' : 'finished' };
}

/**
 * Starts to track objects from a frame on which all are outlined; what is outlined of them on other frames counts from
 * the start.
 *
 * `first`: the states on that frame, as they tell of boxes; `states`: those to go on with.
 */
async function start(
    call: Call,
    frame: number,
    objects: readonly Target[],
    options: Options,
): Promise<{ first: unknown[]; states: unknown[] }> {
    const outlinesOn = (other: number): (Outline | null)[] =>
        objects.map((object) => (other === options.from ? object.start : object.annotated.get(other)) || null);
    const startAlone = async (): Promise<unknown[]> => {
        const shapes = outlinesOn(frame).map((outline) => outline!);
        return statesOf(objects.length, await call({ type: 'init_tracking', frame, shapes }));
    };
    const first = await startAlone();
    const others = outlinedAhead(frame, objects, options);
    if (!others.length) {
        return { first, states: first };
    }
    const present: number[] = [];
    for (const other of others) {
        if (!(await options.isDeleted(other))) {
            present.push(other);
        }
    }
    return { first, states: (await learn(call, present, frame, outlinesOn, first, options)) ?? (await startAlone()) };
}

/**
 * Lets the tracker learn what is outlined on other frames than the one to begin with, which it then sees once more.
 * Returns the states to go on with; null if the server drops outlines on the way: then they count from their frames on.
 */
async function learn(
    call: Call,
    others: readonly number[],
    frame: number,
    outlinesOn: (frame: number) => (Outline | null)[],
    states: unknown[],
    options: Options,
): Promise<unknown[] | null> {
    const seen = async (each: number): Promise<Seen | null> => {
        if (options.cancelled()) {
            throw new Cancelled();
        }
        return unlessRefused(withSeeds(call, each, states, outlinesOn(each)));
    };
    for (const other of others) {
        const learnt = await seen(other);
        if (!learnt) {
            continue; // it cannot use these outlines, or remembers as many as it can
        }
        if (learnt.dropped.length) {
            return null;
        }
        states = learnt.answer.states;
    }
    const last = await seen(frame);
    return last && !last.dropped.length ? last.answer.states : null;
}

/** The frames whose outlines the tracker learns ahead when objects start on a frame. */
export function outlinedAhead(
    frame: number,
    objects: readonly Pick<Target, 'annotated'>[],
    { from, useSeeds }: Pick<Options, 'from' | 'useSeeds'>,
): number[] {
    const outlined = objects.flatMap(({ annotated }) => [...annotated.keys()].filter((each) => annotated.get(each)));
    return useSeeds ? ahead(frame, [from, ...outlined]) : [];
}

/**
 * The answer on the next frame, where some objects may be outlined by a person: these outlines join what is known. Where
 * that is refused, as the tracker remembers as many outlines as it can, these objects start anew.
 */
async function nextFrame(
    call: (request: TrackerRequest) => Promise<unknown>,
    frame: number,
    states: unknown[],
    seeds: (Outline | null)[],
): Promise<Reply> {
    if (!seeds.some(Boolean)) {
        return answerFor(states.length, await call({ type: 'track', frame, states }));
    }
    const { answer, dropped } =
        (await unlessRefused(withSeeds(call, frame, states, seeds))) ??
        (await withoutSeeds(call, frame, states, seeds));
    if (dropped.length) {
        const request = { type: 'init_tracking', frame, shapes: dropped.map(({ seed }) => seed) } as const;
        const states = statesOf(dropped.length, await call(request));
        dropped.forEach(({ index }, position) => {
            answer.states[index] = states[position];
        });
    }
    return answer;
}

async function withSeeds(call: Call, frame: number, states: unknown[], seeds: (Outline | null)[]): Promise<Seen> {
    const answer = answerFor(states.length, await call({ type: 'track', frame, states, shapes: seeds }));
    const certainties = await Promise.all(answer.states.map((state) => readState(state)));
    const dropped = seeds.flatMap((seed, index) =>
        seed && isDropped(seed, answer.shapes[index] ?? null, certainties[index] ?? null) ? [{ seed, index }] : [],
    );
    return { answer, dropped };
}

/** The same with no seed sent: only the objects that have none are tracked. */
async function withoutSeeds(call: Call, frame: number, states: unknown[], seeds: (Outline | null)[]): Promise<Seen> {
    const answer: Reply = { shapes: [...seeds], states: [...states] };
    const others = [...seeds.keys()].filter((index) => !seeds[index]);
    if (others.length) {
        const reply = await call({ type: 'track', frame, states: others.map((index) => states[index]) });
        const own = answerFor(others.length, reply);
        others.forEach((index, position) => {
            answer.shapes[index] = own.shapes[position] ?? null;
            answer.states[index] = own.states[position];
        });
    }
    return { answer, dropped: seeds.flatMap((seed, index) => (seed ? [{ seed, index }] : [])) };
}

async function unlessRefused<T>(answer: Promise<T>): Promise<T | null> {
    return answer.catch((error: unknown) => {
        if (statusOf(error) !== REFUSED) {
            throw error;
        }
        return null;
    });
}

/**
 * Whether the server has dropped a seed on the way to the function, which else answers it with the seed; or, where the
 * object started with an outline of another type, with one of that type, and is sure of it.
 */
function isDropped(seed: Outline, answer: Outline | null, certainty: Certainty | null): boolean {
    if (answer && answer.type !== seed.type) {
        return certainty !== null && certainty.confidence < 1;
    }
    return !sameOutline(seed, answer);
}

/** The reply to `track`, checked: an outline or null, and a state, for each object in the order of the request. */
function answerFor(objects: number, reply: unknown): Reply {
    const states = statesOf(objects, reply);
    const { shapes } = reply as { shapes?: unknown };
    if (!Array.isArray(shapes) || shapes.length !== objects || !shapes.every(isOutlineOrNull)) {
        throw new Error(
            'The tracker does not answer as a tracker of masks does; choose another one, or tell the administrator.',
        );
    }
    const broken = shapes.find((shape) => shape && !isWhole(shape));
    if (broken) {
        throw new Error(
            `The tracker answered with an outline that CVAT cannot draw (${broken.type} of ${broken.points.length} numbers); ` +
                'tell the administrator.',
        );
    }
    return { shapes, states };
}

function statesOf(objects: number, reply: unknown): unknown[] {
    const { states } = (reply ?? {}) as { states?: unknown };
    if (!Array.isArray(states) || states.length !== objects) {
        throw new Error(
            `The tracker was asked for ${objects} objects, but did not answer for as many. Tell the administrator.`,
        );
    }
    return [...states];
}

function isOutlineOrNull(shape: Partial<Outline> | null): shape is Outline | null {
    return shape === null || (OUTLINE_TYPES.includes(shape?.type ?? '') && Array.isArray(shape.points));
}
