/**
 * The guest's initramfs: busybox, the kernel modules that a test needs with their dependencies, and an init that takes commands from the
 * serial line.
 */
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { basename, join } from "node:path"
import { gzipSync } from "node:zlib"
import { run } from "./cache.ts"
import { type ArchiveEntry, archive, characterDevice, directory, file } from "./cpio.ts"
import { type Kernel, busybox } from "./packages.ts"

/** One shell evaluates each line from the serial port. It has no echo, prompt or line editor, which would mix with the output. */
const COMMAND_LOOP = `exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
dmesg -n 1
echo VIOBLK-READY
while read -r line; do eval "$line"; done`

export interface InitramfsOptions {
  readonly kernel: Kernel
  /** Modules loaded at start, in order, each after those that it depends on. */
  readonly modules: readonly string[]
  /** Arguments by module, e.g. `{ virtio_pci: "force_legacy=1" }`. */
  readonly moduleArguments?: Readonly<Record<string, string>>
  /** Shell lines that run before the first command, or instead of all when they `exec`. */
  readonly script?: string
  readonly files?: readonly ArchiveEntry[]
}

/** A compressed initramfs. */
export function initramfs(options: InitramfsOptions): ArrayBuffer {
  const modules = withDependencies(options.kernel, options.modules)
  const load = modules.map((path) => {
    const name = moduleName(path)
    return `insmod /lib/${name}.ko ${options.moduleArguments?.[name] ?? ""}`
  })
  const init = ["#!/bin/busybox sh", "export PATH=/bin:/sbin:/usr/bin:/usr/sbin", "/bin/busybox --install -s /bin",
    "mount -t proc proc /proc", "mount -t sysfs sys /sys", "mount -t devtmpfs dev /dev", ...load, options.script ?? "", COMMAND_LOOP,
    ""].join("\n")
  const entries: ArchiveEntry[] = [
    ...["bin", "lib", "proc", "sys", "dev", "mnt", "tmp"].map(directory), characterDevice("dev/console", 5, 1),
    file("bin/busybox", readFileSync(busybox()), 0o755),
    ...modules.map((path) => file(`lib/${moduleName(path)}.ko`, moduleImage(path))), ...(options.files ?? []), file("init", init, 0o755),
  ]
  return new Uint8Array(gzipSync(archive(entries), { level: 1 })).buffer
}

function moduleName(path: string): string {
  return basename(path).replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_")
}

function moduleImage(path: string): Uint8Array {
  return path.endsWith(".xz") ? Buffer.from(run("sh", ["-c", `xz -dc ${path} | base64 -w0`]), "base64") : readFileSync(path)
}

/**
 * Paths of the modules in load order. Packages have no modules.dep (depmod makes it on installation), but each module names its
 * dependencies.
 */
function withDependencies(kernel: Kernel, names: readonly string[]): string[] {
  const paths = modulePaths(kernel)
  const builtIn = new Set(readFileSync(join(kernel.modules, "modules.builtin"), "utf8").split("\n").map(moduleName))
  const ordered: string[] = []
  const visit = (name: string): void => {
    if (builtIn.has(name)) return
    const path = paths.get(name)
    if (path === undefined) throw new Error(`kernel ${kernel.release} has no module ${name}`)
    if (ordered.includes(path)) return
    for (const needed of dependsOn(moduleImage(path))) visit(needed)
    ordered.push(path)
  }
  for (const name of names) visit(name)
  return ordered
}

function modulePaths(kernel: Kernel): Map<string, string> {
  const folder = join(kernel.modules, "kernel")
  if (!existsSync(folder)) throw new Error(`${folder}: no such folder`)
  const found = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) => /\.ko(\.xz)?$/.test(path))
  return new Map(found.map((path) => [moduleName(path), join(folder, path)]))
}

/** The `depends=` entry of a module's .modinfo section. */
function dependsOn(module: Uint8Array): string[] {
  const bytes = Buffer.from(module.buffer, module.byteOffset, module.byteLength)
  const at = bytes.indexOf("\0depends=")
  if (at < 0) return []
  const start = at + "\0depends=".length
  const list = bytes.toString("latin1", start, bytes.indexOf(0, start))
  return list.split(",").filter((name) => name !== "").map((name) => name.replaceAll("-", "_"))
}
