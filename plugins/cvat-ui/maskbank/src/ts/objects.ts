import type { Collection, Job, Keyframe, ObjectState, Shape, Track } from './cvat-types';
import { isDrawnOver } from './drawn-over';
import type { Named } from './keyframes';
import { isAlike } from './keyframes';
import { OUTLINE_TYPES, outlineOf } from './outlines';
import { overlap } from './pixels';
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

export interface Surroundings {
    from: number;
    frames: readonly number[]; // to track through, in order
    others: readonly number[]; // the job's other frames, if what is there counts as well
    everything: Collection; // of the job
    states: readonly ObjectState[]; // on frame `from`
    convert: boolean; // shapes to tracks
    useSeeds: boolean;
    endMoves: boolean; // that of a track which ends right behind `from`
    labels: Job['labels'];
    /** Whether a program made it, and no person changed it since. */
    isMachineMade(object: Shape | Track, drawn: Shape | Keyframe): boolean;
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
 * one object, which are not joined here.
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
    const { from, frames, everything } = around;
    const visited = new Set([from, ...frames]);
    let lastGroup = 0;
    for (const { group } of [...everything.shapes, ...everything.tracks]) {
        lastGroup = Math.max(lastGroup, group);
    }
    const isByPerson = (shape: Shape): boolean => !around.isMachineMade(shape, shape);
    const split = (shapes: readonly Shape[]): { drawn: Shape[]; made: Shape[] } => ({
        drawn: shapes.filter(isByPerson),
        made: shapes.filter((shape) => !isByPerson(shape)),
    });
    const all = everything.shapes.filter(({ type }) => OUTLINE_TYPES.includes(type));
    const outlines = all.filter(({ frame }) => visited.has(frame));
    const others = new Set(around.others);
    const elsewhere = all.filter(({ frame }) => others.has(frame));
    const chosen = new Map(collection.shapes.map((shape) => [shape.clientID, shape]));
    const isOfTrack = drawnOverTracks(everything.tracks);
    /** The outlines of an object, without those that wait to become keyframes of a track (`drawn-over.ts`). */
    const alikeTo = (source: Shape): Shape[] => {
        const waits = (shape: Shape): boolean => shape.type !== 'mask' && isByPerson(shape) && isOfTrack(shape);
        const alike = outlines.filter((shape) => isAlike(shape, source));
        return alike.filter((shape) => chosen.has(shape.clientID) || !waits(shape));
    };
    const isSameThing = sameAttributes(around.labels);
    /** What persons and a program made of an object on the frames that are not tracked through, as far as it is clear. */
    const foundElsewhere = (source: Shape): { drawn: Shape[]; made: Shape[] } => {
        const { drawn, made } = split(elsewhere.filter((shape) => isAlike(shape, source) && !isOfTrack(shape)));
        const isUnclear = (shape: Shape): boolean =>
            made.some((other) => other.frame === shape.frame && !liesOn(shape, other));
        const isClear = !framesWithSeveral(drawn).length && !drawn.some(isUnclear);
        return { drawn: isClear ? drawn : [], made: isClear && !framesWithSeveral(made).length ? made : [] };
    };
    /** The outline that a person drew over a shape of a program's to take its place, if it is clear that it is one. */
    const drawnOver = (shape: Shape): Shape | undefined => {
        const { drawn, made } = split(alikeTo(shape).filter(({ frame }) => frame === shape.frame));
        const isClear = drawn.length === 1 && made.length === 1 && liesOn(drawn[0]!, made[0]!);
        return isClear && !isByPerson(shape) ? drawn[0] : undefined;
    };
    const sourceOf = (shape: Shape): Shape => {
        const drawn = drawnOver(shape);
        return drawn ? (chosen.get(drawn.clientID) ?? drawn) : shape;
    };
    const crowded = new Set<number>();
    const sources = [...new Set(collection.shapes.map(sourceOf))];
    const shapes = sources.map((source): FollowedObject => {
        const becomesTrack = around.convert && source.type !== 'mask';
        const alike = alikeTo(source);
        const { drawn, made } = split(alike);
        const several = [
            ...framesWithSeveral(drawn),
            ...framesWithSeveral(made),
            ...made
                .filter((each) => drawn.some(({ frame }) => frame === each.frame) && !drawnOver(each))
                .map(({ frame }) => frame),
        ];
        const clear = !several.length;
        if (alike.some(({ frame }) => frame !== from)) {
            several.forEach((frame) => crowded.add(frame));
        }
        const others = foundElsewhere(source);
        const canJoin = (shape: Shape): boolean => shape.type !== 'mask' && isSameThing(shape, source);
        const ofPersons = [
            ...drawn.filter(({ frame, type }) => frame !== from && !(becomesTrack && type === 'mask')),
            ...others.drawn.filter((shape) => !becomesTrack || canJoin(shape)),
        ];
        const ofMachine = [
            ...made.filter(({ frame }) => frame !== from || isByPerson(source)),
            ...others.made.filter((shape) => becomesTrack && canJoin(shape)),
        ];
        const [byPersons, byMachine] = clear ? [byFrame(ofPersons), byFrame(ofMachine)] : [new Map(), new Map()];
        const isToldApart = clear && !(becomesTrack && everything.tracks.some((track) => isAlike(source, track)));
        return {
            kind: 'shape',
            source,
            isByPerson: isByPerson(source),
            becomesTrack,
            group: isToldApart || source.group ? source.group : ++lastGroup,
            byPersons,
            byMachine,
            start: outlineOf(source),
            annotated: new Map([...byPersons].map(([frame, shape]) => [frame, outlineOf(shape)])),
            absent: new Set(),
        };
    });
    // An ungrouped outline on another frame, or one that lies on a program's shape of a group.
    const grouped = outlines.filter(({ group }) => group);
    const ungrouped = outlines
        .filter((shape) => !shape.group && isByPerson(shape))
        .filter((shape) =>
            shape.frame === from
                ? chosen.has(shape.clientID) && grouped.some((other) => !isByPerson(other) && liesOn(shape, other))
                : sources.some(({ label_id, group }) => group && label_id === shape.label_id) &&
                  !sources.some((source) => isAlike(shape, source)),
        );
    const tracks = collection.tracks.flatMap((source): FollowedObject[] => {
        const state = around.states.find(({ clientID }) => clientID === source.clientID);
        if (!state || state.outside) {
            return [];
        }
        const shown = keyframeOf(state, from);
        const made = source.shapes.filter((each) => !each.outside && around.isMachineMade(source, each));
        return [
            {
                kind: 'track',
                source,
                shown,
                byMachine: byFrame(made),
                start: outlineOf(shown),
                ...annotatedKeyframes(source, around),
            },
        ];
    });
    return {
        objects: [...shapes, ...tracks],
        crowded: [...crowded],
        ungrouped: [...new Set(ungrouped.map(({ frame }) => frame))],
    };
}

function keyframeOf({ shapeType, points, rotation, occluded, outside, zOrder }: ObjectState, frame: number): Keyframe {
    return {
        ...{ frame, type: shapeType, points: points ?? [], rotation: rotation ?? 0 },
        ...{ occluded, outside, z_order: zOrder, attributes: [] },
    };
}

/** Whether a shape is drawn over a keyframe of a track of its label and group: it is of that, then. */
function drawnOverTracks(tracks: readonly Track[]): (shape: Shape) => boolean {
    const keyOf = ({ label_id, group }: Named, frame: number): string => `${label_id} ${group} ${frame}`;
    const shown = new Map<string, Keyframe[]>();
    for (const track of tracks) {
        for (const keyframe of track.shapes.filter(({ type, outside }) => OUTLINE_TYPES.includes(type) && !outside)) {
            const key = keyOf(track, keyframe.frame);
            shown.set(key, [...(shown.get(key) ?? []), keyframe]);
        }
    }
    const known = new Map<Shape, boolean>();
    const isOver = (shape: Shape): boolean =>
        (shown.get(keyOf(shape, shape.frame)) ?? []).some((keyframe) => isDrawnOver(shape, keyframe));
    return (shape) => {
        const is = known.get(shape) ?? isOver(shape);
        known.set(shape, is);
        return is;
    };
}

/** Whether shapes agree in what stays the same along a track. */
function sameAttributes(labels: Job['labels']): (one: Shape, other: Shape) => boolean {
    const attributes = labels.flatMap((label) => label.attributes);
    const mutable = new Set(attributes.filter((each) => each.mutable).map(({ id }) => id));
    const fixed = (shape: Shape): string =>
        JSON.stringify(
            shape.attributes
                .filter(({ spec_id }) => !mutable.has(spec_id))
                .map(({ spec_id, value }) => [spec_id, value])
                .sort(),
        );
    return (one, other) => fixed(one) === fixed(other);
}

/** Whether two shapes of a label on one frame cover something in common. */
function liesOn(one: Shape, other: Shape): boolean {
    const isComparable = one.frame === other.frame && one.label_id === other.label_id;
    return isComparable && overlap(outlineOf(one), outlineOf(other)) > 0;
}

function byFrame<Drawing extends Keyframe>(drawings: readonly Drawing[]): Map<number, Drawing> {
    return new Map(drawings.map((drawing) => [drawing.frame, drawing]));
}

function framesWithSeveral(shapes: readonly Shape[]): number[] {
    const frames = shapes.map(({ frame }) => frame);
    return frames.filter((frame, index) => frames.indexOf(frame) !== index);
}

/** What persons said of a track: nothing where all of it is to be tracked anew. */
function annotatedKeyframes(track: Track, around: Surroundings): Pick<Target, 'annotated' | 'absent'> {
    const first = around.frames[0] ?? around.from;
    const byPersons = around.useSeeds ? track.shapes.filter((keyframe) => !around.isMachineMade(track, keyframe)) : [];
    // A track that ends right behind the frame from which it is to be tracked on: its end moves.
    const endMoves = around.endMoves && !track.shapes.some(({ frame, outside }) => frame > first && !outside);
    const keyframes = byPersons
        .filter(({ frame, outside }) => !(outside && frame === first && first > around.from && endMoves))
        .sort((one, other) => one.frame - other.frame);
    const absent = around.frames.filter((frame) => keyframes.findLast((each) => each.frame <= frame)?.outside);
    // Where it is not known who made a track's keyframes, those that are not on the way may all be a program's.
    const isKnown = track.source === 'manual' || track.shapes.some((keyframe) => around.isMachineMade(track, keyframe));
    const annotated = keyframes.filter(
        ({ frame, outside }) => around.frames.includes(frame) || (isKnown && !outside && around.others.includes(frame)),
    );
    return {
        annotated: new Map(annotated.map((each) => [each.frame, each.outside ? null : outlineOf(each)])),
        absent: new Set(absent),
    };
}
