/**
 * The packages that the guest is made of: v86 from npm; kernel, busybox and firmware from Debian. apt runs with a state folder and an
 * architecture of its own, so the machine's packages are not touched.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type RunOptions, cacheFolder, once, run } from "./cache.ts"

export const V86_VERSION = "0.5.462"

/** Folder of the npm package `v86`, with build/libv86.mjs and build/v86.wasm. */
export function v86Package(): string {
  const folder = once(`v86-${V86_VERSION}`, (path) => {
    const packed = run("npm", ["pack", "--silent", `v86@${V86_VERSION}`], { cwd: path }).trim().split("\n").at(-1) ?? ""
    run("tar", ["xzf", packed], { cwd: path })
  })
  return join(folder, "package")
}

/** The architecture of packages: the guest's, or the host's for programs that run here. */
type Architecture = "i386" | "host"

/** Runs apt with lists and status of its own for each architecture. Sources and keys are the machine's. */
function apt(architecture: Architecture, program: "apt-get" | "apt-cache", args: readonly string[], options: RunOptions = {}): string {
  const root = join(cacheFolder(), `apt-${architecture}`)
  for (const folder of ["state/lists/partial", "cache/archives/partial"]) mkdirSync(join(root, folder), { recursive: true })
  const status = join(root, "status")
  if (!existsSync(status)) writeFileSync(status, "")
  const name = architecture === "host" ? run("dpkg", ["--print-architecture"]).trim() : architecture
  const settings = {
    "Dir::State": join(root, "state"), "Dir::State::status": status, "Dir::Cache": join(root, "cache"), "Dir::Log": root,
    "APT::Architecture": name, "APT::Architectures": name, "APT::Sandbox::User": "root", "Acquire::Languages": "none",
    "Acquire::Retries": "3",
    "APT::Get::List-Cleanup": "0",
  }
  return run(program, [...Object.entries(settings).map(([key, value]) => `-o${key}=${value}`), "-qq", ...args], options)
}

/** Exit status 100 is allowed: a source that has nothing for i386 or does not answer does not matter if another has the package. */
function updateLists(architecture: Architecture): void {
  once(`apt-lists-${architecture}`, () => {
    apt(architecture, "apt-get", ["update"], { allowed: [0, 100] })
  })
}

/** Downloads Debian packages and unpacks them into one folder. Nothing is installed. */
export function debianPackages(name: string, packages: readonly string[], architecture: Architecture = "i386"): string {
  return once(name, (path) => {
    updateLists(architecture)
    apt(architecture, "apt-get", ["download", ...packages], { cwd: path })
    for (const file of readdirSync(path).filter((entry) => entry.endsWith(".deb"))) run("dpkg-deb", ["-x", join(path, file), path])
  })
}

/** The package that a metapackage depends on, e.g. linux-image-6.1.0-37-686 for linux-image-686. */
function dependency(metapackage: string, pattern: RegExp): string {
  updateLists("i386")
  const found = apt("i386", "apt-cache", ["depends", "--no-recommends", "--no-suggests", metapackage]).split("\n")
    .map((line) => /Depends: (\S+)/.exec(line)?.[1] ?? "").find((candidate) => pattern.test(candidate))
  if (found === undefined) {
    throw new Error(`${metapackage} is not in the machine's apt sources; the guest tests need Debian 12's i386 kernel`)
  }
  return found.replace(/:i386$/, "")
}

export interface Kernel { readonly image: string; readonly modules: string; readonly release: string }

/** Debian's kernel without PAE, which v86 does not have. */
export function debianKernel(): Kernel {
  const folder = existsSync(join(cacheFolder(), "kernel"))
    ? join(cacheFolder(), "kernel")
    : debianPackages("kernel", [dependency("linux-image-686", /^linux-image-\d/)])
  const release = readdirSync(join(folder, "lib/modules"))[0]
  if (release === undefined) throw new Error(`${folder}: no kernel modules in the package`)
  return { image: join(folder, `boot/vmlinuz-${release}`), modules: join(folder, "lib/modules", release), release }
}

/** SeaBIOS and its VGA BIOS, from Debian (the same files QEMU uses). */
export function firmware(): { readonly bios: ArrayBuffer; readonly vgaBios: ArrayBuffer } {
  const folder = join(debianPackages("seabios", ["seabios"]), "usr/share/seabios")
  return { bios: fileBuffer(join(folder, "bios.bin")), vgaBios: fileBuffer(join(folder, "vgabios-stdvga.bin")) }
}

export function busybox(): string {
  return join(debianPackages("busybox", ["busybox-static"]), "bin/busybox")
}

/** A file as an ArrayBuffer of exactly its size, as v86 wants it (a Node Buffer may sit in a larger pool). */
export function fileBuffer(path: string): ArrayBuffer {
  return new Uint8Array(readFileSync(path)).buffer
}
