/** The guest's first userland: busybox, the kernel modules a test needs (with what those need) and an init that takes commands from the serial line. */
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { basename, join } from "node:path"
import { gzipSync } from "node:zlib"
import { run } from "./cache.ts"
import { type ArchiveEntry, archive, characterDevice, directory, file } from "./cpio.ts"
import { type Kernel, busybox } from "./packages.ts"

/** Commands arrive as lines on the serial port; each is evaluated in this one shell (no echo, no prompt, no line editing to read around). */
const COMMAND_LOOP = `exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
dmesg -n 1
echo VIOBLK-READY
while read -r line; do eval "$line"; done`

export interface InitramfsOptions {
  readonly kernel: Kernel
  /** Modules loaded at start, in order. What they depend on comes first. */
  readonly modules: readonly string[]
  /** Arguments of single modules, e.g. `{ virtio_pci: "force_legacy=1" }`. */
  readonly moduleArguments?: Readonly<Record<string, string>>
  /** Shell lines run before commands are taken, or instead of that when they `exec`. */
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
    "mount -t proc proc /proc", "mount -t sysfs sys /sys", "mount -t devtmpfs dev /dev", ...load, options.script ?? "", COMMAND_LOOP, ""].join("\n")
  const entries: ArchiveEntry[] = [
    ...["bin", "lib", "proc", "sys", "dev", "mnt", "tmp"].map(directory), characterDevice("dev/console", 5, 1), file("bin/busybox", readFileSync(busybox()), 0o755),
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

/** Paths of the modules in load order. A package holds no modules.dep (depmod writes it on installation); each module names its own needs. */
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
