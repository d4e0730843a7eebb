/** An encrypted image that QEMU makes and uses. */
import { spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { qemuImg } from "../support/qemu.ts"

export interface EncryptedOptions {
  readonly format: "qcow2" | "luks"
  /** As for `qemu-img create -o`. */
  readonly options: string
  /** Undefined: the image is there already. */
  readonly size: string | undefined
  readonly passphrase: string
  readonly name?: string
}

export class EncryptedByQemu {
  readonly path: string
  /** The file that holds the passphrase. */
  readonly secret: string
  /** For --image-opts. */
  readonly options: string

  constructor(directory: string, { format, options, size, passphrase, name = "image" }: EncryptedOptions) {
    this.path = join(directory, name)
    this.secret = join(directory, `${name}.secret`)
    writeFileSync(this.secret, passphrase)
    const prefix = format === "qcow2" ? "encrypt." : ""
    this.options = `driver=${format},${prefix}key-secret=s,file.filename=${this.path}`
    if (size === undefined) return
    const isAes = options.includes("format=aes")
    const all = [`${prefix}key-secret=s`, ...(isAes ? [] : [`${prefix}iter-time=10`]), options].filter((option) => option !== "")
    qemuImg("create", "-q", "-f", format, ...this.#object, "-o", all.join(","), this.path, size)
  }

  get #object(): readonly string[] {
    return ["--object", `secret,id=s,file=${this.secret}`]
  }

  /** Runs qemu-io commands, and fails when one of them does. */
  io(...commands: string[]): string {
    const words = [...this.#object, "--image-opts", this.options, ...commands.flatMap((command) => ["-c", command])]
    const { status, stdout, stderr } = spawnSync("qemu-io", words, { encoding: "utf8" })
    if (status !== 0 || /verification failed|failed:|error/i.test(stdout)) throw new Error(`qemu-io: ${stderr}${stdout}`)
    return stdout
  }

  /** Exit code of `qemu-img check`. */
  check(): number {
    return spawnSync("qemu-img", ["check", "-q", ...this.#object, "--image-opts", this.options]).status ?? -1
  }
}
