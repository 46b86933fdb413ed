import { fixedAttributes, lostAttributes } from './attributes';
import type { Collection, Job, Shape, Track } from './cvat-types';
import type { Annotated } from './drawn-over';
import { framesToTrack } from './frames';
import type { Surroundings } from './job-shapes';
import { isAlike, outlinedByPersons } from './keyframes';
import type { Followed, FollowedObject } from './objects';
import { followedObjects } from './objects';
import type { Run } from './runs';
import type { Settings } from './settings';
import { AROUND, SEEDS } from './settings';
import { refuseTwice, tellSharedGroups } from './shared-groups';
import { stretchesAround } from './stretch';
import { ranges } from './summary';
import type { SwitchedOff } from './switched-off';
import { switchedOff } from './switched-off';

const TRACKED_ELSEWHERE =
    'Of a track that was tracked in another browser, all keyframes count as yours: choose as the target frame the last one ' +
    `that is to be tracked anew, and turn "${SEEDS}" off, which replaces all keyframes up to there.`;

/** What an annotator asks for. */
export interface Asked extends Annotated {
    unclear: readonly Shape[]; // that may be of an object, but nobody knows of which
    job: Job;
    settings: Settings;
    frame: number; // the current one
    numbers: readonly number[]; // of the job's frames
    isDeleted(frame: number): Promise<boolean>;
    notify(kind: 'info' | 'warning', sentence: string): void;
}

/** What is tracked. */
export interface Plan {
    objects: FollowedObject[]; // all of them
    runs: Run[];
    off: SwitchedOff[];
}

/** The objects of the current frame, up to the target. */
export async function planUpToTarget(asked: Asked): Promise<Plan> {
    const { settings, collection, frame: from, numbers } = asked;
    const frames = framesToTrack(numbers, from, settings.target);
    if (!frames.length) {
        throw new Error('There is no frame between this one and the target frame; choose another target frame.');
    }
    if (await areDeleted(frames, asked)) {
        throw new Error(`All frames up to frame ${frames.at(-1)} are deleted; choose another target frame.`);
    }
    const visited = new Set([from, ...frames]);
    const others = numbers.filter((each) => !visited.has(each));
    const followed = await findObjects(asked, collection, { from, frames, others, endMoves: true });
    refuseTwice(asked, followed.objects, frames);
    const { crowded } = followed;
    const isDone = (object: FollowedObject): boolean => !frames.some((each) => isOpen(object, each));
    const done = followed.objects.flatMap((each) => (each.kind === 'track' && isDone(each) ? [each.source] : []));
    const off = [...offOnFrame(asked, frames), ...offIn(asked, done, frames)];
    const objects = followed.objects.filter(({ source }) => off.every((each) => each.source !== source));
    if (off.length && objects.every(isDone)) {
        return { objects: [], runs: [], off };
    }
    if (!objects.length && collection.tracks.some((track) => isDrawnBehindItsEnd(track, from, frames))) {
        throw new Error(
            'The track is switched off on this frame: go to a frame on which its object is to be seen, or delete what is ' +
                'drawn behind this one.',
        );
    }
    if (!objects.length) {
        throw new Error(
            'There is no mask, polygon, ellipse or box on this frame to be tracked; draw one, or go to a frame that has one.',
        );
    }
    const open = frames.filter((each) => objects.some((object) => isOpen(object, each)));
    if (await areDeleted(open, asked)) {
        throw new Error(
            `These objects are annotated already, on every frame up to frame ${frames.at(-1)}. Choose another target ` +
                'frame, or delete what is to be tracked anew.' +
                (objects.some(({ kind }) => kind === 'track') ? ` ${TRACKED_ELSEWHERE}` : ''),
        );
    }
    if (crowded.length) {
        asked.notify(
            'warning',
            `On frame ${ranges(crowded)} there are several shapes with the same label and group. It is unclear which ` +
                'object each of them is, so shapes on other frames were left as they are. Give every object a group of ' +
                'its own, or delete what is wrong.',
        );
    }
    tellUngrouped(asked, followed);
    tellUnclear(asked, objects, frames);
    tellLaterTracks(asked, objects, frames);
    tellLost(asked, objects);
    tellSharedGroups(asked, objects);
    return { objects, runs: [{ objects, places: [...objects.keys()], from, frames }], off };
}

/** The objects that a person outlined on the current frame, up to their outlines around it. */
export async function planCorrections(asked: Asked): Promise<Plan> {
    const { settings, collection, frame, numbers, isMachineMade } = asked;
    const followedFrom = (start: Collection, from: number): Promise<Followed> => {
        const later = framesToTrack(numbers, from, Infinity);
        const frames = [...later, ...framesToTrack(numbers, from, -Infinity)];
        return findObjects(asked, start, { from, frames, others: [], endMoves: false });
    };
    const byPersons = (await followedFrom(collection, frame)).objects.filter(({ kind, source }) =>
        kind === 'shape'
            ? !isMachineMade(source, source)
            : outlinedByPersons(source, (each) => isMachineMade(source, each)).some((each) => each.frame === frame),
    );
    const off = offOnFrame(asked, framesToTrack(numbers, frame, Math.max(settings.target, frame)));
    if (!byPersons.length && off.length) {
        return { objects: [], runs: [], off };
    }
    if (!byPersons.length) {
        throw new Error(`Nothing on this frame is a person's work; correct an object here, or turn "${AROUND}" off.`);
    }
    const followed = await followedFrom(sourcesOf(byPersons), frame);
    const { objects, crowded, ungrouped } = followed;
    if (crowded.length) {
        throw new Error(
            `On frame ${ranges(crowded)} there are several shapes with the same label and group, so it is unclear which ` +
                `outlines are of the objects here. Give every object a group of its own, or turn "${AROUND}" off.`,
        );
    }
    if (ungrouped.includes(frame)) {
        throw new Error(
            'What you outlined here has no group, but what it lies on has, and it is unclear whether both are one object. ' +
                `If they are, edit the shape that is there, or put both into a group (G); else turn "${AROUND}" off.`,
        );
    }
    if (unclearOn(asked, objects, []).length) {
        throw new Error(sentenceOfUnclear([frame]));
    }
    tellUngrouped(asked, followed);
    tellUnclear(
        asked,
        objects,
        numbers.filter((each) => each !== frame),
    );
    const outlined = new Set(objects.flatMap(({ annotated }) => [...annotated.keys()]));
    const deleted = new Set<number>();
    for (const each of outlined) {
        if (await asked.isDeleted(each)) {
            deleted.add(each);
        }
    }
    const runs = new Map<string, Run>();
    for (const [place, object] of objects.entries()) {
        for (const { from, frames } of stretchesAround(object, { frame, target: settings.target, numbers, deleted })) {
            if (
                await areDeleted(
                    frames.filter((each) => each !== frame && isOpen(object, each)),
                    asked,
                )
            ) {
                continue; // there is nothing to track
            }
            const key = `${from} ${frames.at(-1)}`;
            const run = runs.get(key) ?? { objects: [], places: [], from, frames };
            runs.set(key, { ...run, objects: [...run.objects, object], places: [...run.places, place] });
        }
    }
    if (!runs.size && !off.length) {
        throw new Error(
            `There is nothing to track between this frame and the outlines around it; turn "${AROUND}" off.` +
                (objects.some(({ kind }) => kind === 'track') ? ` ${TRACKED_ELSEWHERE}` : ''),
        );
    }
    const started = [...runs.values()].map(async (run): Promise<Run> => {
        const start = sourcesOf(run.objects, run.from === frame ? undefined : run.from);
        return { ...run, objects: (await followedFrom(start, run.from)).objects };
    });
    return { objects, runs: await Promise.all(started), off };
}

/** Whether no person said of an object what is to be seen on a frame. */
function isOpen({ annotated, absent }: FollowedObject, frame: number): boolean {
    return !annotated.has(frame) && !absent.has(frame);
}

async function areDeleted(frames: readonly number[], { isDeleted }: Asked): Promise<boolean> {
    for (const frame of frames) {
        if (!(await isDeleted(frame))) {
            return false;
        }
    }
    return true;
}

async function findObjects(
    { job, settings, frame, everything, states, isMachineMade }: Asked,
    collection: Collection,
    around: Pick<Surroundings, 'from' | 'frames' | 'others' | 'endMoves'>,
): Promise<Followed> {
    return followedObjects(collection, {
        ...{ ...around, convert: settings.convert, useSeeds: settings.useSeeds, isMachineMade, everything },
        states: around.from === frame ? states : await job.annotations.get(around.from, false, []),
        labels: job.labels,
    });
}

/** Whether a track is switched off on a frame, and drawn again on later ones of those that are to be tracked through. */
function isDrawnBehindItsEnd({ shapes }: Track, from: number, frames: readonly number[]): boolean {
    const isOff = shapes.some(({ frame, outside }) => frame === from && outside);
    return isOff && shapes.some(({ frame, outside }) => frame > from && !outside && frames.includes(frame));
}

/** The tracks that a person switched off on the current frame. */
function offOnFrame(asked: Asked, frames: readonly number[]): SwitchedOff[] {
    return offIn(asked, asked.collection.tracks, frames).filter(({ frame }) => frame === asked.frame);
}

/** Of tracks those that a person switched off on the current frame or behind it; only forward is that a question. */
function offIn({ frame, isMachineMade }: Asked, tracks: readonly Track[], frames: readonly number[]): SwitchedOff[] {
    if (!frames.length || frames[0]! < frame) {
        return [];
    }
    return tracks.flatMap(
        (track) => switchedOff(track, [frame, ...frames], (keyframe) => isMachineMade(track, keyframe)) ?? [],
    );
}

/** Where a track of the same label and group comes on the way, it may be the same object, which is drawn twice then. */
function tellLaterTracks(
    { everything, states, notify }: Asked,
    objects: readonly FollowedObject[],
    frames: readonly number[],
): void {
    const shapes = objects.filter(({ kind }) => kind === 'shape');
    const later = everything.tracks.filter(
        (track) =>
            states.every(({ clientID }) => clientID !== track.clientID) &&
            shapes.some(({ source }) => isAlike(source, track)),
    );
    const shown = later.flatMap((track) => track.shapes.filter(({ outside }) => !outside).map(({ frame }) => frame));
    const first = frames.find((frame) => shown.includes(frame));
    if (first !== undefined) {
        notify(
            'warning',
            `On frame ${first} there is a track of the same label and group. If it is the same object, it will be drawn twice: ` +
                'cancel this, or undo it afterwards, and choose the frame before as the target frame.',
        );
    }
}

/** A track has one value of an attribute that cannot change: others that persons set on its shapes are lost. */
function tellLost({ labels, notify }: Asked, objects: readonly FollowedObject[]): void {
    const lost = objects.flatMap((object) => {
        if (object.kind !== 'shape' || !object.becomesTrack) {
            return [];
        }
        const others = [...object.byPersons.values()];
        const fixed = fixedAttributes(object.source, others, labels);
        return others.filter((shape) => lostAttributes(shape, fixed, labels).length).map(({ frame }) => frame);
    });
    if (lost.length) {
        notify('warning', sentenceOfLost(lost));
    }
}

/** What persons set on these frames does not fit into the tracks that the shapes there become part of. */
export function sentenceOfLost(frames: readonly number[]): string {
    return (
        `What you set on frame ${ranges(frames)} is lost: something else is set on another frame, and this attribute cannot ` +
        'change along a track. If it is another object, cancel or undo this, and give it a group of its own (G, a click ' +
        'on it, G).'
    );
}

function tellUngrouped(asked: Asked, { ungrouped }: Followed): void {
    if (ungrouped.length) {
        asked.notify(
            'warning',
            `What you outlined on frame ${ranges(ungrouped)} has no group, but other objects of its label have, so it is ` +
                'unclear whether it is one of them. If it is, edit the shape that is there, or put both into a group (G).',
        );
    }
}

function tellUnclear(asked: Asked, objects: readonly FollowedObject[], frames: readonly number[]): void {
    const unclear = unclearOn(asked, objects, frames);
    if (unclear.length) {
        asked.notify('warning', sentenceOfUnclear(unclear));
    }
}

/** The frames with outlines that are unclear: those that are tracked, or on other frames may be of these objects. */
function unclearOn({ unclear }: Asked, objects: readonly FollowedObject[], frames: readonly number[]): number[] {
    const sources = new Set(objects.map(({ source }) => source.clientID));
    const labels = new Set(objects.map(({ source }) => source.label_id));
    const counts = ({ clientID, label_id, group, frame }: Shape): boolean =>
        sources.has(clientID) || (group !== 0 && labels.has(label_id) && frames.includes(frame));
    return unclear.filter(counts).map(({ frame }) => frame);
}

function sentenceOfUnclear(frames: readonly number[]): string {
    return (
        `It is unclear which object you outlined on frame ${ranges(frames)}: the frames around do not tell, or show one that has ` +
        'another shape there. Undo what you grouped or deleted, and edit the shape that is there, or draw over it; or delete ' +
        'what was tracked of the object.'
    );
}

/** The shapes and tracks of objects; of shapes those on another frame, if one is given, which persons drew there. */
function sourcesOf(objects: readonly FollowedObject[], frame?: number): Collection {
    return {
        shapes: objects.flatMap((each) =>
            each.kind === 'shape' ? [frame === undefined ? each.source : each.byPersons.get(frame)!] : [],
        ),
        tags: [],
        tracks: objects.flatMap((each) => (each.kind === 'track' ? [each.source] : [])),
    };
}
