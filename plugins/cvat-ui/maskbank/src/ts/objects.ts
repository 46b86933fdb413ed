import type { Collection, Keyframe, Shape, Track } from './cvat-types';
import type { Surroundings } from './job-shapes';
import { JobShapes, sameAttributes } from './job-shapes';
import { isAlike, keyframeOf, outlinedByPersons } from './keyframes';
import { outlineOf } from './outlines';
import type { Target } from './tracking';

/** One object that the annotator wants to be tracked, as CVAT has it. */
export type FollowedObject = Target & (FollowedShape | FollowedTrack);

export interface FollowedShape {
    kind: 'shape';
    source: Shape;
    isByPerson: boolean;
    becomesTrack: boolean;
    group: number; // for what is created
    byPersons: ReadonlyMap<number, Shape>; // its shapes on other frames
    byMachine: ReadonlyMap<number, Shape>; // those that a program made, by frame; of what becomes a track all in the job
}

export interface FollowedTrack {
    kind: 'track';
    source: Track;
    shown: Keyframe; // what it looks like on the frame from which it is tracked
    byMachine: ReadonlyMap<number, Keyframe>; // what a program made and is to be seen, by frame
}

export interface Followed {
    objects: FollowedObject[];
    // The frames with shapes that were left alone, as it is unclear which object they are of:
    crowded: number[]; // several of a label and group, or
    ungrouped: number[]; // a person's without a group, where the objects have groups
}

/**
 * The objects of a collection, with what else the job knows of them.
 *
 * Shapes with the same label and group, of whatever type, are one object if there is at most one of them on each frame:
 * a label whose objects are not grouped has one object, then. Otherwise it is unclear which is which, and each shape is
 * an object for itself; without a group it gets one of its own, so that it will be clear the next time. `maskbank job`
 * has the same rule (tests/cases/same_object.json), but takes several shapes of a group on one frame as the parts of
 * one object, which are not joined here. What a person drew over a shape of an object's has the group of that by now
 * (`associate`), and gets it in the job, so that `maskbank job` finds it there as well.
 *
 * On frames that are not tracked through, it is not asked what is unclear: such shapes are left out.
 *
 * What a program made counts by itself: where a person drew over it, it is what the person's outline replaces. What
 * lies elsewhere on the frame may be another object: that is unclear, too.
 *
 * A shape that becomes a track takes along what the job has of its object, but leaves the masks that persons made alone:
 * CVAT has no tracks of masks.
 */
export function followedObjects(collection: Collection, around: Surroundings): Followed {
    const groups = [...around.everything.shapes, ...around.everything.tracks].map(({ group }) => group);
    let lastGroup = groups.reduce((last, group) => Math.max(last, group), 0);
    const jobShapes = new JobShapes(collection.shapes, around);
    const sources = jobShapes.sources();
    const shapes = sources.map((source) => followedShape(source, jobShapes, around, () => ++lastGroup));
    return {
        objects: [...shapes.map(({ object }) => object), ...followedTracks(collection.tracks, around)],
        crowded: [...new Set(shapes.flatMap(({ crowded }) => crowded))],
        ungrouped: [...new Set(jobShapes.ungrouped(sources).map(({ frame }) => frame))],
    };
}

/** An object that is a shape on the current frame, and the frames on which it is unclear what is of it. */
function followedShape(
    source: Shape,
    jobShapes: JobShapes,
    { from, convert, labels, everything }: Surroundings,
    newGroup: () => number,
): { object: FollowedObject; crowded: number[] } {
    const becomesTrack = convert && source.type !== 'mask';
    const [onTheWay, elsewhere] = [jobShapes.onTheWay(source), jobShapes.elsewhere(source)];
    const unclear = jobShapes.unclearFrames(onTheWay);
    const isSameThing = sameAttributes(labels);
    const canJoin = (shape: Shape): boolean => shape.type !== 'mask' && isSameThing(shape, source);
    const isByPerson = jobShapes.isByPerson(source);
    const ofPersons = [
        ...onTheWay.drawn.filter(({ frame, type }) => frame !== from && !(becomesTrack && type === 'mask')),
        ...elsewhere.drawn.filter((shape) => !becomesTrack || canJoin(shape)),
    ];
    const ofMachine = [
        ...onTheWay.made.filter(({ frame }) => frame !== from || isByPerson),
        ...elsewhere.made.filter((shape) => becomesTrack && canJoin(shape)),
    ];
    const clear = !unclear.length;
    const [byPersons, byMachine] = clear ? [byFrame(ofPersons), byFrame(ofMachine)] : [new Map(), new Map()];
    const isToldApart = clear && !(becomesTrack && everything.tracks.some((track) => isAlike(source, track)));
    const isOnOthers = [...onTheWay.drawn, ...onTheWay.made].some(({ frame }) => frame !== from);
    return {
        object: {
            kind: 'shape',
            source,
            isByPerson,
            becomesTrack,
            group: isToldApart || source.group ? source.group : newGroup(),
            byPersons,
            byMachine,
            start: outlineOf(source),
            annotated: new Map([...byPersons].map(([frame, shape]) => [frame, outlineOf(shape)])),
            absent: new Set(),
        },
        crowded: isOnOthers ? unclear : [],
    };
}

/** The tracks of those that show something on the current frame. */
function followedTracks(tracks: readonly Track[], around: Surroundings): FollowedObject[] {
    return tracks.flatMap((source): FollowedObject[] => {
        const state = around.states.find(({ clientID }) => clientID === source.clientID);
        if (!state || state.outside) {
            return [];
        }
        const shown = keyframeOf(state, around.from);
        const made = source.shapes.filter((each) => !each.outside && around.isMachineMade(source, each));
        const track = { kind: 'track', source, shown, byMachine: byFrame(made) } as const;
        return [{ ...track, start: outlineOf(shown), ...annotatedKeyframes(source, around) }];
    });
}

function byFrame<Drawing extends Keyframe>(drawings: readonly Drawing[]): Map<number, Drawing> {
    return new Map(drawings.map((drawing) => [drawing.frame, drawing]));
}

/** What persons said of a track: nothing where all of it is to be tracked anew. */
function annotatedKeyframes(track: Track, around: Surroundings): Pick<Target, 'annotated' | 'absent'> {
    const first = around.frames[0] ?? around.from;
    const isMade = (keyframe: Keyframe): boolean => around.isMachineMade(track, keyframe);
    const byPersons = around.useSeeds ? outlinedByPersons(track, isMade) : [];
    // A person's track that ends right behind the frame from which it is to be tracked on: its end moves. Where it was
    // tracked before, the end is one that a person set against what was found.
    const isEnd = !track.shapes.some((each) => isMade(each) || (each.frame > first && !each.outside));
    const endMoves = around.endMoves && isEnd;
    const keyframes = byPersons
        .filter(({ frame, outside }) => !(outside && frame === first && first > around.from && endMoves))
        .sort((one, other) => one.frame - other.frame);
    const absent = around.frames.filter((frame) => keyframes.findLast((each) => each.frame <= frame)?.outside);
    // Where it is not known who made a track's keyframes, those that are not on the way may all be a program's.
    const isKnown = track.source === 'manual' || track.shapes.some(isMade);
    const annotated = keyframes.filter(
        ({ frame, outside }) => around.frames.includes(frame) || (isKnown && !outside && around.others.includes(frame)),
    );
    return {
        annotated: new Map(annotated.map((each) => [each.frame, each.outside ? null : outlineOf(each)])),
        absent: new Set(absent),
    };
}
