/**
 * All of CVAT's interface that the plugin uses (cvat-core and cvat-ui, CVAT 2.24 and newer).
 *
 * Objects travel in two forms: as CVAT stores them (`Shape`, `Track`; snake_case), and as they look on one frame
 * (`ObjectState`; camelCase). The test's stand-in for CVAT implements exactly this.
 */

export interface Attribute {
    spec_id: number;
    value: string;
}

/** What an object looks like on one frame. Which numbers `points` holds depends on the type, see `outlines.ts`. */
export interface Drawn {
    frame: number;
    type: string;
    points?: number[]; // a skeleton has none
    rotation: number; // degrees, of rectangles and ellipses
    occluded: boolean;
    outside: boolean; // of a track: the object is gone, from this keyframe to the next
    z_order: number;
    attributes: Attribute[];
}

interface Annotation {
    id?: number; // on the server; missing until it is saved
    clientID?: number; // in this browser; CVAT gives it to what is committed
    label_id: number;
    group: number; // 0: none
    source: string; // "manual", "auto", "semi-auto" (auto, then edited), ...
    elements: unknown[]; // of a skeleton
}

/** An object on one frame, with all of its attributes. */
export interface Shape extends Annotation, Drawn {
    score?: number; // how sure a program is of it, 0 to 1; CVAT that does not know it leaves it out. Tracks have none
}

/** A keyframe of a track, with those attributes that may change along a track. */
export interface Keyframe extends Drawn {
    id?: number;
}

/** An object along frames: its keyframes, and the attributes that stay the same. Masks cannot be tracks. */
export interface Track extends Annotation {
    frame: number; // of the first keyframe
    shapes: Keyframe[];
    attributes: Attribute[];
}

export interface Collection {
    shapes: Shape[];
    tags: unknown[];
    tracks: Track[];
}

/** An object on one frame; a track between two keyframes is interpolated. */
export interface ObjectState {
    clientID: number | null;
    shapeType: string;
    points: number[] | null;
    rotation: number | null;
    occluded: boolean;
    outside: boolean;
    zOrder: number;
    lock: boolean; // a person wants it to stay as it is
}

export interface Job {
    id: number;
    taskId: number | null;
    startFrame: number;
    stopFrame: number;
    labels: { id?: number; name: string; attributes: { id?: number; mutable: boolean; defaultValue?: string }[] }[];
    frames: {
        frameNumbers(): Promise<number[]>; // a ground truth job has only some of those from startFrame to stopFrame
        get(frame: number): Promise<{ deleted: boolean }>;
    };
    annotations: {
        get(frame: number, allTracks: boolean, filters: object[]): Promise<ObjectState[]>;
        export(): Promise<Collection>;
    };
}

/** A serverless function or an AI agent. CVAT before 2.42 does not say which types it supports. */
export interface Model {
    id: string | number;
    name: string;
    kind: string;
    supportedShapeTypes?: string[];
}

export interface Core {
    lambda: {
        list(): Promise<{ models: Model[] }>;
        /** Rejects with an error that has the HTTP status as `code`. */
        call(taskID: number | null, model: Model, args: object): Promise<unknown>;
    };
    actions: { register(action: object): Promise<void> };
}

export type ActionParameters = Record<
    string,
    {
        type: 'select' | 'number' | 'checkbox';
        values: string[] | ((context: { instance: Job }) => string[]); // number: lowest, highest, step
        defaultValue: string | ((context: { instance: Job }) => string);
    }
>;

export interface CollectionActionInput {
    collection: Collection;
    frameData: { width: number; height: number; number: number };
    onProgress(message: string, percent: number): void;
    cancelled(): boolean;
}

/** CVAT removes and adds these as one step that can be undone; what is `deleted` it knows by clientID. */
export interface CollectionActionOutput {
    created: Collection;
    deleted: Collection;
}

/** The job that is open in the user interface. */
export type OpenJob = Pick<Job, 'id' | 'startFrame' | 'stopFrame'>;

/** What CVAT's user interface gives to a plugin when it starts. */
export interface PluginContext {
    core: Core;
    dispatch(action: unknown): unknown;
    actionCreators: {
        changeFrameAsync(frame: number, fillBuffer?: boolean, frameStep?: number, forceUpdate?: boolean): unknown;
    };
    store: {
        getState(): {
            models: { trackers: Model[] };
            annotation: { job: { instance?: OpenJob | null } };
        };
    };
}

export type ComponentBuilder = (context: PluginContext) => { name: string; destructor: () => void };
