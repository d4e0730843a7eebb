/** A disk over HTTP from a real server: nginx serves the golden images, and httpFile with openDisk reads them as QEMU does. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../src/backing/sources/http/http-file.ts"
import { copyGolden, goldenImages, sha256 } from "../support/golden.ts"

const NGINX = ["nginx", "/usr/sbin/nginx"].find((path) => spawnSync(path, ["-v"]).status === 0)
/** Runs where nginx is, fails in CI where it is not. */
const itWithNginx = it.runIf(NGINX !== undefined || process.env["CI"] !== undefined)

let folder = ""
let origin = ""

function configuration(port: number): string {
  return `daemon on; worker_processes 1; pid ${folder}/pid; error_log ${folder}/error.log;
events { }
http {
  access_log ${folder}/access.log; client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/fastcgi; uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
  gzip on; gzip_types *; gzip_min_length 1;
  server {
    listen 127.0.0.1:${port};
    root ${folder};
    location /moved/ { rewrite ^/moved/(.*)$ /golden/$1 redirect; }
    location /without-ranges/ { alias ${folder}/golden/; max_ranges 0; }
    location /secret/ { return 403; }
    location /broken/ { return 503; }
  }
}
`
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return typeof address === "object" && address !== null ? address.port : 0
}

beforeAll(async () => {
  if (NGINX === undefined) return
  folder = mkdtempSync(join(tmpdir(), "vioblk-nginx-"))
  copyGolden(folder)
  const port = await freePort()
  origin = `http://127.0.0.1:${port}`
  writeFileSync(join(folder, "conf"), configuration(port))
  // nginx's workers are another user's, who must get in.
  spawnSync("chmod", ["-R", "a+rX", folder])
  // Returns once it listens.
  const started = spawnSync(NGINX, ["-c", join(folder, "conf"), "-e", join(folder, "error.log")], { encoding: "utf8" })
  expect(started.stderr).toBe("")
})

afterAll(() => {
  const pid = join(folder, "pid")
  if (folder === "") return
  if (existsSync(pid)) process.kill(Number(readFileSync(pid, "utf8")), "SIGTERM")
  rmSync(folder, { recursive: true, force: true })
})

const READABLE = goldenImages.filter(({ file }) => !/cut|data-file|zstd/.test(file))

itWithNginx.each(READABLE.map(({ file, about }) => [file, about]))("%s (%s) reads over nginx as in QEMU", async (file) => {
  const image = goldenImages.find((other) => other.file === file)
  const url = `${origin}/golden/${file}`
  const disk = await openDisk(httpFile(url), {
    backing: ({ name, imagePath }) => httpFile(new URL(name, imagePath)), probeBackingFormat: true,
  })
  const content = new Uint8Array(disk.size)
  for (let at = 0; at < content.length; at += 1 << 20) await disk.pread(content.subarray(at, at + (1 << 20)), at)
  await disk.close()
  expect([content.length, sha256(content)]).toEqual([image?.size, image?.sha256])
})

itWithNginx("redirects are followed", async () => {
  const file = httpFile(`${origin}/moved/v3-4k.qcow2`)
  const expected = readFileSync(join(folder, "golden/v3-4k.qcow2"))
  expect(await file.size()).toBe(expected.length)
  const end = new Uint8Array(1000)
  await file.read(end, expected.length - 1000)
  expect(end).toEqual(new Uint8Array(expected.subarray(-1000)))
})

itWithNginx("a read of a file that was replaced on the server fails", async () => {
  const path = join(folder, "changing.img")
  writeFileSync(path, Buffer.alloc(1 << 20, 1), { mode: 0o644 })
  const file = httpFile(`${origin}/changing.img`)
  await file.size()
  writeFileSync(path, Buffer.alloc((1 << 20) + 512, 2))
  await expect(file.read(new Uint8Array(512), 1 << 19)).rejects.toMatchObject({
    code: "io", message: expect.stringContaining("changed on the server"),
  })
})

itWithNginx.each([
  ["/golden/no-such.img", "not-found", "404"], ["/secret/x", "permission", "403"], ["/broken/x", "io", "503"],
  ["/without-ranges/v3-4k.qcow2", "io", "Use a server that supports Range requests"],
])("%s gives the error %s", async (path, code, text) => {
  const file = httpFile(`${origin}${path}`, { retries: 0 })
  await expect(file.size()).rejects.toMatchObject({ code, message: expect.stringContaining(text) })
})

itWithNginx("an empty file has the size 0", async () => {
  writeFileSync(join(folder, "empty.img"), "", { mode: 0o644 })
  expect(await httpFile(`${origin}/empty.img`).size()).toBe(0)
})
