import Button from 'antd/lib/button';
import notification from 'antd/lib/notification';
import React from 'react';
import type { Screen } from './action';
import { AITracker, NAME } from './action';
import type { ComponentBuilder, OpenJob, PluginContext } from './cvat-types';

const builder: ComponentBuilder = (context) => {
    const { core } = context;
    const action = new AITracker(core, screenOf(context), () => window.localStorage);
    core.actions.register(action).catch((error: Error) => {
        notification.error({ message: NAME, description: error.message, duration: 0 });
    });
    return { name: 'MaskBank', destructor: () => {} };
};

function screenOf({ dispatch, actionCreators, store }: PluginContext): Screen {
    let count = 0;
    const keys: string[] = []; // of the notices of a run, by which they are closed
    const key = (): string => {
        keys.push(`maskbank-${count++}`); // none twice: a notice that is being closed would take in the new one
        return keys.at(-1)!;
    };
    const openJob = (): OpenJob | null => store.getState().annotation.job.instance ?? null;
    const showFrame = async (frame: number): Promise<void> => {
        await dispatch(actionCreators.changeFrameAsync(frame, false, undefined, true));
    };
    return {
        trackers: () => store.getState().models.trackers,
        openJob,
        notify: (kind, sentence) => {
            const duration = kind === 'info' ? 10 : 0;
            notification[kind]({ key: key(), message: NAME, description: sentence, duration });
        },
        showSummary: ({ text, frame }) => {
            const notice = { key: key(), message: NAME, duration: 0 };
            if (frame === null) {
                notification.success({ ...notice, description: text });
                return;
            }
            const job = openJob()?.id;
            const show = (): void => {
                if (openJob()?.id === job) {
                    void showFrame(frame);
                }
            };
            const btn = (
                <Button size="small" onClick={show}>
                    Go to frame {frame}
                </Button>
            );
            notification.success({ ...notice, description: text, btn });
        },
        holdPage: () => {
            const ask = (event: BeforeUnloadEvent): void => event.preventDefault();
            window.addEventListener('beforeunload', ask);
            return () => window.removeEventListener('beforeunload', ask);
        },
        closeNotices: () => keys.splice(0).forEach((each) => notification.destroy(each)),
        showFrame,
    };
}

window.addEventListener('plugins.ready', () => window.cvatUI?.registerComponent(builder), { once: true });
