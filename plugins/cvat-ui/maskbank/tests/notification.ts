/** In the place of antd's notifications: it keeps those that are up. */
export interface Shown {
    kind: 'success' | 'info' | 'warning' | 'error';
    message: string;
    description: string;
    duration?: number;
    key?: string;
    btn?: JSX.Element;
}

export const shown: Shown[] = [];

const keep =
    (kind: Shown['kind']) =>
    (notice: Omit<Shown, 'kind'>): void => {
        shown.push({ kind, ...notice });
    };

function destroy(key: string): void {
    shown.splice(0, Infinity, ...shown.filter((notice) => notice.key !== key));
}

export default {
    ...{ success: keep('success'), info: keep('info'), warning: keep('warning'), error: keep('error') },
    destroy,
};
