/** The pages of this folder as a site: compiled with the package's own sources, and served with v86, its firmware and disk images. */
import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { debianPackages, v86Package } from "../linux/packages.ts"
import { PageServer } from "./server.ts"

const ROOT = resolve(import.meta.dirname, "../..")

export interface SiteOptions {
  /** The folder of the disk images, at /images/. */
  readonly images: string
  readonly port?: number
}

export class Site {
  readonly server: PageServer
  readonly #scripts: string

  private constructor(server: PageServer, scripts: string) {
    this.server = server
    this.#scripts = scripts
  }

  /** @throws Error when the pages do not compile */
  static async start(options: SiteOptions): Promise<Site> {
    const scripts = mkdtempSync(join(tmpdir(), "vioblk-page-"))
    const compiler = join(ROOT, "node_modules/.bin/tsc")
    execFileSync(compiler, ["-p", "test/browser", "--noEmit", "false", "--outDir", scripts], { cwd: ROOT, stdio: "inherit" })
    const server = await PageServer.start({
      ...(options.port === undefined ? {} : { port: options.port }),
      mounts: [
        ["/js/", scripts],
        ["/v86/", join(v86Package(), "build")],
        ["/firmware/", join(debianPackages("seabios", ["seabios"]), "usr/share/seabios")],
        ["/images/", options.images],
        ["/", join(ROOT, "test/browser/page")],
      ],
    })
    return new Site(server, scripts)
  }

  async close(): Promise<void> {
    await this.server.close()
    rmSync(this.#scripts, { recursive: true, force: true })
  }
}
