/** Made by test/browser/worker-source.ts from opfs-service.ts, which is to be changed instead; a test compares the two. */
export const OPFS_WORKER_SOURCE = `
async function openAccessHandle(opening, scope) {
    const root = await scope.navigator.storage?.getDirectory?.();
    if (root === undefined)
        throw unavailable("there is no origin private file system here; it needs https, or localhost");
    const { create, readOnly, path } = opening;
    const folders = path.split("/");
    if (folders.some((part) => ["", ".", ".."].includes(part)))
        throw new TypeError('the path has a part that is empty, "." or ".."');
    const name = folders.pop() ?? "";
    let folder = root;
    for (const part of folders)
        folder = await folder.getDirectoryHandle(part, { create });
    const file = await folder.getFileHandle(name, { create });
    if (file.createSyncAccessHandle === undefined) {
        throw unavailable("only a worker can open it for synchronous access; opfsFile works on every thread");
    }
    return file.createSyncAccessHandle({ mode: readOnly ? "read-only" : "readwrite" });
}
function serveOpfs(scope) {
    const life = holdLock(scope);
    scope.onmessage = ({ data, ports }) => {
        for (const port of ports)
            void serveFile(data, port, { scope, life });
    };
}
function holdLock({ navigator: { locks } }) {
    const name = ["vioblk/opfs-worker", Math.random(), Math.random()].join(" ");
    return new Promise((resolve) => {
        if (locks === undefined)
            return resolve(undefined);
        const held = locks.request(name, {}, () => {
            resolve(name);
            return new Promise(() => undefined);
        });
        held.catch(() => resolve(undefined));
    });
}
async function serveFile(opening, port, { scope, life }) {
    try {
        const handle = await openAccessHandle(opening, scope);
        port.onmessage = ({ data }) => answer(data, handle, port);
        port.postMessage({ id: 0, life: await life });
    }
    catch (error) {
        port.postMessage({ id: 0, error: failure(error) });
    }
}
function answer(request, handle, port) {
    const { id } = request;
    try {
        if (request.call === "read") {
            const bytes = new Uint8Array(request.length);
            const count = handle.read(bytes, { at: request.offset });
            port.postMessage({ id, count, bytes }, [bytes.buffer]);
            return;
        }
        const count = act(request, handle);
        port.postMessage({ id, count });
        if (request.call === "close")
            port.close();
    }
    catch (error) {
        port.postMessage({ id, error: failure(error) });
    }
}
function act(request, handle) {
    switch (request.call) {
        case "write":
            return handle.write(request.bytes, { at: request.offset });
        case "truncate":
            handle.truncate(request.size);
            return 0;
        case "size":
            return handle.getSize();
        case "flush":
            handle.flush();
            return 0;
        case "close":
            handle.close();
            return 0;
    }
}
function unavailable(message) {
    return Object.assign(new Error(message), { name: "unavailable" });
}
function failure(error) {
    const { name, message } = error;
    return { name: String(name), message: String(message) };
}
serveOpfs(globalThis);
`
