/** In the place of React: it keeps what an element is made of. */
export default {
    createElement: (_: unknown, props: { onClick: () => void }, ...children: unknown[]): JSX.Element => ({
        props: { ...props, children },
    }),
};
