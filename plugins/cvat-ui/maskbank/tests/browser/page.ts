/** The page in which the plugin runs: CVAT's user interface, as far as the plugin sees it. */
import '../../src/ts/index';
import type { AITracker } from '../../src/ts/action';
import type { Collection, Shape, Track } from '../../src/ts/cvat-types';
import { coreOf, runAction, ServerError, StoredJob } from '../cvat';
import type { Shown } from '../notification';
import { shown } from '../notification';
import { MASKBANK } from '../server';

export interface Scenario {
    frames: number; // of the job
    from: number;
    drawn: (Partial<Shape> & Pick<Shape, 'frame' | 'type' | 'points'>)[];
    tracks?: Track[]; // that are there already
    parameters: Record<string, string | number>;
}

/** What happened; the notices are those that are up afterwards. */
export interface Outcome extends Collection {
    commits: number;
    messages: string[];
    notices: (Omit<Shown, 'btn'> & { button?: string })[];
    shownFrames: number[];
    error: string | null;
    seconds: number;
}

const core = coreOf([MASKBANK], async (task, model, args) => {
    const response = await fetch(`/api/lambda/functions/${model.id}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ ...args, task }),
    });
    const body = await response.json();
    if (!response.ok) {
        throw new ServerError(body, response.status);
    }
    return body;
});
const shownFrames: number[] = [];
let openJob = { id: 7, startFrame: 0, stopFrame: 0 };

window.cvatUI = {
    registerComponent: (builder) => {
        builder({
            core,
            dispatch: async (action) => shownFrames.push(action as number),
            actionCreators: { changeFrameAsync: (frame) => frame },
            store: {
                getState: () => ({
                    models: { trackers: [MASKBANK] },
                    annotation: { job: { instance: openJob } },
                }),
            },
        });
    },
};
window.document.dispatchEvent(new CustomEvent('plugins.ready', { bubbles: true }));

async function runPlugin({ frames, from, drawn, tracks = [], parameters }: Scenario): Promise<Outcome> {
    const job = new StoredJob(Array.from({ length: frames }, (_, frame) => frame));
    drawn.forEach((shape) => job.draw(shape));
    job.commit({ shapes: [], tags: [], tracks }, { shapes: [], tags: [], tracks: [] });
    const messages: string[] = [];
    const started = performance.now();
    const error = await runAction(core.registered[0] as AITracker, job, from, parameters, (message) =>
        messages.push(message),
    ).then(
        () => null,
        (reason: Error) => reason.message,
    );
    const seconds = (performance.now() - started) / 1000;
    const commits = job.commits.length;
    const notices = shown.map(({ btn, ...notice }) => ({
        ...notice,
        button: btn && [btn.props.children].flat().join(''),
    }));
    return {
        ...(await job.annotations.export()),
        ...{ commits, messages, notices, shownFrames: shownFrames.splice(0), error, seconds },
    };
}

/** Presses the buttons of the notices that are up while a job is open; the frames that are shown then. */
function pressButtons(job: number): number[] {
    openJob = { ...openJob, id: job };
    shown.forEach(({ btn }) => btn?.props.onClick());
    return shownFrames.splice(0);
}

Object.assign(window, { runPlugin, pressButtons });
