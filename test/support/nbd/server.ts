/** A server of ours at a Unix socket, for one test. */
import { join } from "node:path"
import { onTestFinished } from "vitest"
import type { NbdServerOptions } from "../../../src/backing/nbd/server/server.ts"
import { NbdServer } from "../../../src/backing/nbd/server/server.ts"
import { NbdClient } from "./client.ts"
import { temporaryDirectory } from "../temporary.ts"

export interface TestServer {
  readonly server: NbdServer
  readonly path: string
  /** The errors passed to `onError`, as text. */
  readonly errors: string[]
  connect(): Promise<NbdClient>
}

/** Serves until the test has finished. Keeps errors in `errors`; they do not fail the test. */
export async function serve(options: NbdServerOptions): Promise<TestServer> {
  const errors: string[] = []
  const path = join(temporaryDirectory(), "nbd.sock")
  const server = new NbdServer({ onError: (error) => void errors.push(String(error)), closeTimeout: 200, ...options })
  await server.listen({ socket: path })
  onTestFinished(() => server.close())
  return { server, path, errors, connect: () => NbdClient.connect({ path }) }
}
