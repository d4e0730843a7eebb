/** fio from Debian's i386 packages, for the guest's initramfs. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { once, run } from "../cache.ts"
import { type ArchiveEntry, directory, file } from "../cpio.ts"
import { debianPackages } from "../packages.ts"

/** What fio is linked with for storage that the guest does not have, and how functions there begin. Their packages would take 40 MiB. */
const UNUSED: readonly (readonly [library: string, prefix: string])[] = [
  ["libgfapi.so.0", "glfs_"], ["libnbd.so.0", "nbd_"], ["libibverbs.so.1", "ibv_"], ["librdmacm.so.1", "rdma_"],
  ["librados.so.2", "rados_"], ["librbd.so.1", "rbd_"],
]
const USED = /^(libnuma|libaio|libz|libm|libc|ld-linux)\.so\.\d+$/

/** fio, the libraries that it uses, and for the others one that has their functions, none of which may be called. */
export function fioProgram(): ArchiveEntry[] {
  const root = debianPackages("fio", ["fio", "libaio1", "zlib1g", "libc6", "libnuma1"])
  const libraries = ["lib/i386-linux-gnu", "usr/lib/i386-linux-gnu"].flatMap((folder) => {
    const path = join(root, folder)
    return existsSync(path) ? readdirSync(path).filter((name) => USED.test(name)).map((name) => ({ name, path: join(path, name) })) : []
  })
  const stub = stubs(join(root, "usr/bin/fio"))
  return [
    directory("lib/i386-linux-gnu"), directory("usr"), directory("usr/bin"),
    file("usr/bin/fio", readFileSync(join(root, "usr/bin/fio")), 0o755),
    ...libraries.map(({ name, path }) => file(`lib/i386-linux-gnu/${name}`, readFileSync(path), 0o755)),
    ...UNUSED.map(([name]) => file(`lib/i386-linux-gnu/${name}`, readFileSync(join(stub, name)), 0o755)),
    file("lib/ld-linux.so.2", readFileSync(join(root, "lib/i386-linux-gnu/ld-linux.so.2")), 0o755),
  ]
}

/** Made by binutils, which the machine must have. */
function stubs(program: string): string {
  return once("fio-stubs", (folder) => {
    const needed = run("nm", ["-D", "--undefined-only", program]).split("\n").map((line) => line.trim().split(/ +/)[1] ?? "")
    for (const [library, prefix] of UNUSED) {
      const symbols = needed.filter((name) => name.startsWith(prefix)).map((name) => name.split(/@+/))
      const at = join(folder, library)
      writeFileSync(`${at}.s`, `.text\n${symbols.map(([name]) => `.globl ${name}\n.type ${name}, @function\n${name}: hlt\n`).join("")}`)
      run("as", ["--32", "-o", `${at}.o`, `${at}.s`])
      // The loader wants each function in the version that fio names.
      const versions = new Map<string, string[]>()
      for (const [name = "", version] of symbols) if (version !== undefined) versions.set(version, [...(versions.get(version) ?? []), name])
      const script = [...versions].map(([version, list]) => `${version} { global: ${list.map((name) => `${name};`).join(" ")} };`)
      writeFileSync(`${at}.map`, `${script.join("\n")}\n`)
      const versioned = script.length === 0 ? [] : ["--version-script", `${at}.map`]
      run("ld", ["-m", "elf_i386", "-shared", "-soname", library, ...versioned, "-o", at, `${at}.o`])
    }
  })
}
