/** In the place of antd's notifications: it keeps them. */
export interface Shown {
    kind: 'info' | 'warning' | 'error';
    message: string;
    description: string;
    duration?: number;
}

export const shown: Shown[] = [];

const keep =
    (kind: Shown['kind']) =>
    (notice: Omit<Shown, 'kind'>): void => {
        shown.push({ kind, ...notice });
    };

export default { info: keep('info'), warning: keep('warning'), error: keep('error') };
