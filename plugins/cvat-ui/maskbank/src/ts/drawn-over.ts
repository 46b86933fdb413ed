import { inherited, isMutable, replaced, setAttributes } from './attributes';
import type { Collection, Job, Keyframe, ObjectState, Shape, Track } from './cvat-types';
import { drawnAs, isAlike } from './keyframes';
import type { Outline } from './outlines';
import { boundsOf, OUTLINE_TYPES, outlineOf } from './outlines';
import { overlap } from './pixels';

/** What a job has, and what of it is chosen on a frame. */
export interface Annotated {
    collection: Collection; // the chosen shapes of the frame, and tracks
    everything: Collection; // of the job
    states: readonly ObjectState[]; // on the frame
    labels: Job['labels'];
    /** Whether a program made it, and no person changed it since. */
    isMachineMade(object: Shape | Track, drawn: Shape | Keyframe): boolean;
}

/** A shape that became a keyframe of a track. */
export interface DrawnOver {
    shape: Shape;
    track: Track; // with that keyframe
    byProgram: readonly Keyframe[]; // of the track
}

export const SAME = 0.5; // intersection over union from which one outline is drawn over the other

/**
 * What persons drew over tracks of the same label and group on a frame, as keyframes of these: it takes the place of what
 * a track shows there, as with shapes. Attributes are the track's, but for those that a person set on the shape.
 *
 * @throws Error a sentence, where a chosen mask lies on a track: CVAT has no tracks of masks
 */
export function mergeDrawnOver(annotated: Annotated, frame: number): { merged: Annotated; over: DrawnOver[] } {
    const { collection, everything, isMachineMade, labels } = annotated;
    const chosen = new Set([...collection.shapes, ...collection.tracks].map(({ clientID }) => clientID));
    const pairs = everything.shapes
        .filter((shape) => shape.frame === frame && !isMachineMade(shape, shape))
        .flatMap((shape) => tracksUnder(shape, annotated).map((track) => ({ shape, track })))
        .filter(({ shape, track }) => chosen.has(shape.clientID) || chosen.has(track.clientID));
    const clear = pairs.filter(
        ({ shape, track }) => pairs.filter((other) => other.shape === shape || other.track === track).length === 1,
    );
    if (clear.some(({ shape }) => shape.type === 'mask' && chosen.has(shape.clientID))) {
        throw new Error(
            `A mask on frame ${frame} lies on a track of the same label and group, and CVAT has no tracks of masks. If ` +
                'both are one object, delete the track, or draw a polygon instead; else give the mask a group of its own.',
        );
    }
    const over = clear
        .filter(({ shape }) => shape.type !== 'mask')
        .map(({ shape, track }) => withKeyframe(track, shape, isMachineMade, labels));
    const byProgram = new Set(over.flatMap((each) => each.byProgram));
    const isMade: Annotated['isMachineMade'] = (object, drawn) => byProgram.has(drawn) || isMachineMade(object, drawn);
    return { merged: { ...withMerged(annotated, over), isMachineMade: isMade }, over };
}

/** The tracks of a shape's label and group that show nearly the same on its frame. */
function tracksUnder(shape: Shape, { everything, states }: Annotated): Track[] {
    return everything.tracks.filter((track) => isAlike(shape, track) && liesOnTrack(shape, track, states));
}

/** Whether a track shows nearly the same as a shape. */
export function liesOnTrack(shape: Shape, track: Track, states: readonly ObjectState[]): boolean {
    const state = states.find(({ clientID, outside }) => clientID === track.clientID && !outside);
    return (
        !!state &&
        [shape.type, state.shapeType].every((type) => OUTLINE_TYPES.includes(type)) &&
        isDrawnOver(shape, { type: state.shapeType, points: state.points, rotation: state.rotation })
    );
}

/** Whether a shape is drawn over what is shown on its frame. */
export function isDrawnOver(shape: Shape, shown: Shown): boolean {
    return likeness(shape, shown) >= SAME;
}

type Shown = Parameters<typeof outlineOf>[0];

/** Intersection over union of a shape and of what is shown on its frame; where one is a box, of the boxes around both. */
export function likeness(shape: Shape, shown: Shown): number {
    const types = [shape.type, shown.type];
    if (shape.type !== shown.type && types.includes('rectangle')) {
        const boxOf = (each: Shown): Outline => ({ type: 'rectangle', points: boundsOf([outlineOf(each)]) });
        return overlap(boxOf(shape), boxOf(shown));
    }
    return types.includes('mask')
        ? overlap(outlineOf(shape), outlineOf(shown))
        : overlap(outlineOf(drawnAs(shape, shown.type)), outlineOf(shown));
}

function withKeyframe(
    track: Track,
    shape: Shape,
    isMachineMade: Annotated['isMachineMade'],
    labels: Job['labels'],
): DrawnOver {
    const { frame, occluded, z_order } = shape;
    const others = track.shapes.filter((each) => each.frame !== frame);
    const { attributes: shown = [] } = track.shapes.find((each) => each.frame === frame) ?? {};
    const set = setAttributes(shape, labels);
    const isKeyframes = isMutable(labels);
    const attributes = replaced(shown, set.filter(isKeyframes));
    const always = inherited(
        track,
        set.filter((each) => !isKeyframes(each)),
        labels,
    );
    const drawn = drawnAs(shape, track.shapes[0]!.type);
    const keyframe = { frame, ...drawn, occluded, z_order, outside: false, attributes };
    const source = track.source === 'auto' ? 'semi-auto' : track.source;
    return {
        shape,
        track: { ...track, source, attributes: always, shapes: [...others, keyframe] },
        byProgram: others.filter((each) => isMachineMade(track, each)),
    };
}

/** The same, with tracks in the place of the shapes that were drawn over them. */
function withMerged(annotated: Annotated, over: readonly DrawnOver[]): Annotated {
    const { collection, everything, states } = annotated;
    const shapes = new Set(over.map(({ shape }) => shape.clientID));
    const byTrack = new Map(over.map((each) => [each.track.clientID, each]));
    const isLeft = ({ clientID }: Shape): boolean => !shapes.has(clientID);
    return {
        ...annotated,
        collection: {
            shapes: collection.shapes.filter(isLeft),
            tags: [],
            tracks: [
                ...collection.tracks.filter(({ clientID }) => !byTrack.has(clientID)),
                ...over.map(({ track }) => track),
            ],
        },
        everything: {
            ...everything,
            shapes: everything.shapes.filter(isLeft),
            tracks: everything.tracks.map((track) => byTrack.get(track.clientID)?.track ?? track),
        },
        states: states.map((state) => withShape(state, byTrack.get(state.clientID ?? undefined)?.shape)),
    };
}

/** What a track looks like where a shape was drawn over it. */
function withShape(state: ObjectState, shape: Shape | undefined): ObjectState {
    if (!shape) {
        return state;
    }
    const { type, points = [], rotation, occluded, z_order } = shape;
    return { ...state, shapeType: type, points, rotation, occluded, zOrder: z_order };
}
