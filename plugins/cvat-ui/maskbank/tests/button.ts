/** In the place of antd's button: what it does, its element has. */
export default null;
