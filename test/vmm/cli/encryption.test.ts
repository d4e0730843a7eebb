/** Encrypted images on the command line: passphrases come from files and the environment, never from an argument. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, describe, expect, it, vi } from "vitest"
import { commandLine } from "../../support/command-line.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

afterEach(() => void vi.unstubAllEnvs())

function folder(): { readonly key: string; path(name: string): string } {
  const directory = temporaryDirectory()
  const key = join(directory, "key")
  writeFileSync(key, "hunter2")
  return { key, path: (name) => join(directory, name) }
}

/** Milliseconds: the commands are loaded, and keys derived. */
const PATIENCE = 120_000
const LUKS = "encrypt.format=luks,encrypt.iter-time=1,encrypt.cipher-alg=aes-128"

describe("encrypted images on the command line", () => {
  it("are made, written, read and described, and no output has the passphrase", async () => {
    const { key, path } = folder()
    const image = path("image.qcow2")
    const secret = ["--object", `secret,id=s,file=${key}`]
    const options = ["-o", `${LUKS},encrypt.key-secret=s`]
    const made = await commandLine("create", "-f", "qcow2", ...secret, ...options, "--json", image, "1M")
    expect(made).toMatchObject({ code: 0, err: "" })
    expect(JSON.parse(made.out)).toEqual({ filename: image, format: "qcow2", size: 1 << 20, encrypted: true })
    const keyed = `driver=qcow2,encrypt.key-secret=s,file.filename=${image}`
    expect(await commandLine("io", ...secret, "--image-opts", keyed, "-c", "write -P 7 0 100k")).toMatchObject({ code: 0 })
    expect(await commandLine("io", "--passphrase-file", key, image, "-c", "read -P 7 0 100k")).toMatchObject({ code: 0 })
    vi.stubEnv("VIOBLK_PASSPHRASE", "hunter2")
    expect(await commandLine("io", image, "-c", "read -P 7 0 100k")).toMatchObject({ code: 0 })
    vi.stubEnv("VIOBLK_PASSPHRASE", "hunter3")
    expect((await commandLine("io", image, "-c", "read 0 1k")).err).toMatch(/the passphrase is wrong/)
    expect((await commandLine("info", image)).out).toMatch(/^encrypted: yes$/m)
    expect(await commandLine("check", image)).toMatchObject({ code: 0 })
  }, PATIENCE)

  it("are converted to raw LUKS images and back", async () => {
    const { key, path } = folder()
    const [first, second, third] = [path("a.qcow2"), path("b.luks"), path("c.qcow2")]
    const secret = ["--passphrase-file", key]
    await commandLine("create", "-f", "qcow2", ...secret, "-o", LUKS, first, "1M")
    await commandLine("io", ...secret, "-c", "write -P 9 300k 4k", first)
    const options = ["-o", "iter-time=1,cipher-alg=aes-128"]
    expect(await commandLine("convert", ...secret, "-f", "qcow2", "-O", "luks", ...options, first, second)).toMatchObject({ code: 0 })
    expect((await commandLine("info", "-f", "luks", second)).out).toMatch(/^file format: luks$/m)
    expect(await commandLine("check", "-f", "luks", second)).toMatchObject({ code: 63 })
    expect(await commandLine("convert", ...secret, "-f", "luks", "-O", "qcow2", second, third)).toMatchObject({ code: 0 })
    expect(await commandLine("io", "-c", "read -P 9 300k 4k", "-c", "read -P 0 0 300k", third)).toMatchObject({ code: 0 })
  }, PATIENCE)

  it.each(["qcow2", "luks"])("gain and lose passphrases, which come from files and the environment: %s", async (format) => {
    const { key, path } = folder()
    const [image, other] = [path("image"), path("other")]
    writeFileSync(other, "another")
    const prefix = format === "luks" ? "" : "encrypt."
    const options = format === "luks" ? "iter-time=1,cipher-alg=aes-128" : LUKS
    await commandLine("create", "-q", "-f", format, "--passphrase-file", key, "-o", options, image, "1M")
    const amend = (...words: string[]) => commandLine("amend", "-f", format, ...words, image)
    const opens = async (file: string): Promise<boolean> =>
      (await commandLine("io", "-f", format, "--passphrase-file", file, "-c", "read 0 4k", image)).code === 0
    const added = ["-o", `${prefix}state=active,${prefix}iter-time=1`]
    expect((await amend("--passphrase-file", key, ...added)).err).toMatch(/: there is no new passphrase: give --new-passphrase-file/)
    expect(await amend("--passphrase-file", key, "--new-passphrase-file", other, ...added)).toEqual({ code: 0, out: "", err: "" })
    expect([await opens(key), await opens(other)]).toEqual([true, true])
    vi.stubEnv("VIOBLK_PASSPHRASE", "another")
    // The only object is the passphrase that is to go: it does not open the image.
    const removed = ["--object", `secret,id=old,file=${key}`, "-o", `${prefix}state=inactive,${prefix}old-secret=old`]
    expect(await amend(...removed)).toEqual({ code: 0, out: "", err: "" })
    expect([await opens(key), await opens(other)]).toEqual([false, true])
    expect((await amend("-o", `${prefix}state=inactive,${prefix}keyslot=1`)).err).toMatch(/nobody could open the image any more/)
    vi.stubEnv("VIOBLK_NEW_PASSPHRASE", "hunter2")
    expect(await amend(...added)).toEqual({ code: 0, out: "", err: "" })
    expect([await opens(key), await opens(other)]).toEqual([true, true])
  }, PATIENCE)

  it("are resized, amended, and given snapshots and bitmaps", async () => {
    const { key, path } = folder()
    const image = path("image")
    const secret = ["--passphrase-file", key]
    await commandLine("create", "-q", "-f", "qcow2", ...secret, "-o", LUKS, image, "1M")
    for (const words of [
      ["resize", "-q", ...secret, image, "2M"], ["snapshot", ...secret, "-c", "one", image], ["bitmap", ...secret, "--add", image, "b"],
      ["snapshot", ...secret, "-d", "one", image],
      ["bitmap", ...secret, "--remove", image, "b"], ["amend", ...secret, "-o", "size=3M", image],
      ["amend", ...secret, "-o", "compat=0.10", image], ["check", "-q", image],
    ]) {
      expect(await commandLine(...words), words.join(" ")).toEqual({ code: 0, out: "", err: "" })
    }
    expect(JSON.parse((await commandLine("info", "--json", image)).out)).toMatchObject({
      "virtual-size": 3 << 20, "format-specific": { data: { compat: "0.10", encrypt: { format: "luks", "cipher-alg": "aes-128" } } },
    })
  }, PATIENCE)

  it.each([
    [["--object", "secret,id=s,data=abc"], /others can read the command line/],
    [["--object", "iothread,id=s"], /the only object is secret/],
    [["--object", "secret,id=s"], /file=FILE are needed/],
    [["-o", `${LUKS},encrypt.key-secret=q`], /there is no --object secret,id=q/],
    [["-o", "encrypt.cipher-alg=aes-128"], /needs -o encrypt.format=luks/],
    [["-o", "encrypt.format=aes"], /it must be luks/],
    [["--passphrase-file", "/nowhere", "-o", LUKS], /the passphrase cannot be read/],
  ])("are refused in one line with %j", async (words, message) => {
    const { key, path } = folder()
    const { code, err } = await commandLine("create", "-f", "qcow2", "-o", "size=1M", "--object", `secret,id=k,file=${key}`, ...words,
      ...(words[0] === "--object" ? ["-o", LUKS] : []), path("image"))
    expect(code).toBe(1)
    expect(err.trim().split("\n")[0]).toMatch(message)
  }, PATIENCE)
})
