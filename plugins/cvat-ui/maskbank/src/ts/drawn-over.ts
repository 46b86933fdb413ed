import type { Collection, Keyframe, ObjectState, Shape, Track } from './cvat-types';
import { outlineOf } from './outlines';
import { overlap } from './pixels';
import { drawnAs } from './results';

/** The annotations of a job, in which shapes that a person drew over tracks on a frame are keyframes of these. */
export interface DrawnOver {
    everything: Collection;
    states: ObjectState[]; // on the frame
    tracks: TrackDrawnOver[];
    masks: Shape[]; // that lie on tracks, and cannot be their keyframes: CVAT has no tracks of masks
}

export interface TrackDrawnOver {
    track: Track; // with the new keyframe
    shape: Shape; // what was drawn
    byProgram: readonly Keyframe[]; // of the track
}

type IsMachineMade = (object: Shape | Track, drawn: Shape | Keyframe) => boolean;

const SAME = 0.5; // intersection over union from which a person drew over what is a person's own

/**
 * What a person drew over a track on a frame takes the place of what the track shows there, as with shapes: label and
 * group have to be the same, and only one shape and one track of them may lie on each other.
 *
 * @param everything of the job
 * @param states on the frame
 * @param isMachineMade see `Surroundings`
 */
export function drawnOver(
    everything: Collection,
    states: readonly ObjectState[],
    frame: number,
    isMachineMade: IsMachineMade,
): DrawnOver {
    const drawn = everything.shapes.filter((shape) => shape.frame === frame && !isMachineMade(shape, shape));
    const pairs = drawn.flatMap((shape) =>
        everything.tracks
            .filter((track) => liesOver(shape, track, states, isMachineMade))
            .map((track) => ({ shape, track })),
    );
    const clear = pairs.filter(
        ({ shape, track }) => pairs.filter((other) => other.shape === shape || other.track === track).length === 1,
    );
    const tracks = clear
        .filter(({ shape }) => shape.type !== 'mask')
        .map(({ shape, track }) => withKeyframe(track, shape, isMachineMade));
    const over = new Set(tracks.map(({ shape }) => shape));
    const byId = new Map(tracks.map((each) => [each.track.clientID, each]));
    return {
        everything: {
            ...everything,
            shapes: everything.shapes.filter((shape) => !over.has(shape)),
            tracks: everything.tracks.map((track) => byId.get(track.clientID)?.track ?? track),
        },
        states: states.map((state) => withShape(state, byId.get(state.clientID ?? undefined)?.shape)),
        tracks,
        masks: clear.map(({ shape }) => shape).filter(({ type }) => type === 'mask'),
    };
}

function liesOver(shape: Shape, track: Track, states: readonly ObjectState[], isMachineMade: IsMachineMade): boolean {
    const state = states.find(({ clientID, outside }) => clientID === track.clientID && !outside);
    if (!state || shape.label_id !== track.label_id || shape.group !== track.group) {
        return false;
    }
    const shown = outlineOf({ type: state.shapeType, points: state.points, rotation: state.rotation });
    const common = overlap(outlineOf(shape), shown);
    const isPersons = track.shapes.some((each) => each.frame === shape.frame && !isMachineMade(track, each));
    return isPersons ? common >= SAME : common > 0;
}

function withKeyframe(track: Track, shape: Shape, isMachineMade: IsMachineMade): TrackDrawnOver {
    const { frame, occluded, z_order } = shape;
    const others = track.shapes.filter((each) => each.frame !== frame);
    const { attributes = [] } = track.shapes.find((each) => each.frame === frame) ?? {};
    const drawn = drawnAs(shape, track.shapes[0]!.type);
    const source = track.source === 'auto' ? 'semi-auto' : track.source;
    return {
        track: {
            ...track,
            source,
            shapes: [...others, { frame, ...drawn, occluded, z_order, outside: false, attributes }],
        },
        shape,
        byProgram: others.filter((each) => isMachineMade(track, each)),
    };
}

/** What an object looks like where a shape was drawn over it. */
function withShape(state: ObjectState, shape: Shape | undefined): ObjectState {
    if (!shape) {
        return state;
    }
    const { type, points = [], rotation, occluded, z_order } = shape;
    return { ...state, shapeType: type, points, rotation, occluded, zOrder: z_order };
}
