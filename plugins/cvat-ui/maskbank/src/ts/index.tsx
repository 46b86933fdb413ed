import notification from 'antd/lib/notification';
import { AITracker } from './action';
import type { ComponentBuilder } from './cvat-types';

const builder: ComponentBuilder = ({ core, dispatch, actionCreators, store }) => {
    const action = new AITracker(core, {
        trackers: () => store.getState().models.trackers,
        notify: (kind, sentence) => {
            const duration = kind === 'info' ? 10 : 0;
            notification[kind]({ message: action.name, description: sentence, duration });
        },
        showFrame: async (frame) => {
            await dispatch(actionCreators.changeFrameAsync(frame, false, undefined, true));
        },
    });
    core.actions.register(action).catch((error: Error) => {
        notification.error({ message: action.name, description: error.message, duration: 0 });
    });
    return { name: 'MaskBank', destructor: () => {} };
};

window.addEventListener('plugins.ready', () => window.cvatUI?.registerComponent(builder), { once: true });
