//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// eachLauncher runs a test under every way to start a session, or under the
// first only where it is to be quick.
func eachLauncher(t *testing.T, f func(t *testing.T, opts *Options)) {
	all := launchers
	if !full() {
		all = all[:1]
	}
	for _, l := range all {
		t.Run(string(l), func(t *testing.T) { f(t, &Options{Launcher: l}) })
	}
}

// full says whether what a test needs must be there.
func full() bool { return os.Getenv("TWINWARD_FULL") == "1" }

// needPrograms skips a test where one of the programs is missing, unless
// TWINWARD_FULL=1 says that all must be there.
func needPrograms(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil && full() {
			t.Fatalf("TWINWARD_FULL=1, but %v", err)
		} else if err != nil {
			t.Skip(err)
		}
	}
}

// script runs a shell script inside, which must not fail, and returns its
// standard output.
func script(t *testing.T, s *Session, text string, env ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := s.Command(t.Context(), "bash", "-euo", "pipefail", "-c", text)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &errs
	require.NoError(t, cmd.Run(), "%s\n%s", &out, &errs)
	return out.String()
}

// What people do all day works inside, with the policy that is the tightest. A
// script that differs from what it does outside is a bug of the sandbox.
func TestWork(t *testing.T) {
	eachLauncher(t, func(t *testing.T, opts *Options) {
		s := box(t, audittest.NewLog(t), nil, opts)
		for _, w := range works {
			t.Run(w.name, func(t *testing.T) {
				needPrograms(t, append(strings.Fields(w.needs), "bash")...)
				assert.Equal(t, w.want, script(t, s, "mkdir "+w.name+" && cd "+w.name+"\n"+w.script))
			})
		}
	})
}

var works = []struct{ name, needs, script, want string }{
	{name: "shell", script: `
		for i in 1 2 3; do echo $i; done | sort -r | head -1
		echo "$(echo a)$(echo b)" | tr ab AB
		cat <<-X | wc -l
		one
		two
		X
		diff <(echo same) <(echo same) && echo same
		test -w /sandbox && test -w /tmp && ! test -w /usr && echo rights
	`, want: "3\nAB\n2\nsame\nrights\n"},
	{name: "signals", script: `
		trap 'echo caught' USR1
		kill -USR1 $$
		sleep 1000 & kill -TERM $!; wait $! || echo ended $?
		(exec -a idle sleep 1000) & kill -STOP $!; kill -CONT $!; kill -KILL $!; wait $! || echo ended $?
		bash -c 'kill -SEGV $$' || echo ended $?
		timeout 0.1 sleep 1000 || echo ended $?
	`, want: "caught\nended 143\nended 137\nended 139\nended 124\n"},
	{name: "jobs", needs: "ps", script: `
		set -m
		sleep 1000 & sleep 1000 &
		jobs -p | wc -l
		kill -STOP %1; until [ "$(ps -o state= -p $(jobs -p %1))" = T ]; do sleep 0.01; done
		kill -CONT %1; kill %1 %2; wait || true
		coproc cat; echo through >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo $line
	`, want: "2\nthrough\n"},
	{name: "daemon", script: `
		(setsid bash -c 'echo $$ >pid; echo ready >fifo.tmp; mv fifo.tmp ready; exec sleep 1000' >/dev/null 2>&1 </dev/null &)
		until [ -e ready ]; do sleep 0.01; done
		kill -0 "$(cat pid)" && kill "$(cat pid)" && echo lived on
	`, want: "lived on\n"},
	{name: "processes", needs: "ps top", script: `
		ps -o comm= -p $$
		ps aux >all; grep -c ' ps aux$' all
		top -b -n 1 >all; grep -c ' top *$' all
		nproc >/dev/null && uptime >/dev/null && free >/dev/null && echo figures
		test "$(ps -e -o user= | sort -u)" = "$(id -un)" && echo only mine
	`, want: "bash\n1\n1\nfigures\nonly mine\n"},
	{name: "locale", needs: "locale", script: `
		locale charmap
		echo 'Grüße 世界' >'Grüße 世界.txt'; ls; wc -m <*.txt
		LC_ALL=C ls | grep -c Gr
		TZ=UTC date -d @0 +%FT%T
	`, want: "UTF-8\nGrüße 世界.txt\n9\n1\n1970-01-01T00:00:00\n"},
	{name: "archives", needs: "tar gzip", script: `
		cd "$(mktemp -d)" # many files, in memory
		mkdir tree; for i in $(seq 20); do mkdir tree/$i; for j in $(seq 50); do echo $i $j >tree/$i/$j; done; done
		ln -s 1/1 tree/link; ln tree/1/1 tree/hard; chmod 750 tree/2
		tar czf tree.tgz tree; mkdir copy; tar xzf tree.tgz -C copy
		diff -r tree copy/tree && find copy -type f | wc -l
		stat -c %a copy/tree/2; readlink copy/tree/link; stat -c %h copy/tree/hard
		tar cf - tree | gzip -9 | gzip -dc | tar tf - | wc -l
		tar xzf tree.tgz -C ~/archives tree/2; ls ~/archives/tree/2 | wc -l; cat ~/archives/tree/2/7
	`, want: "1001\n750\n1/1\n2\n1023\n50\n2 7\n"},
	{name: "git", needs: "git", script: `
		export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
		git init -q -b main .
		for i in 1 2 3 4 5; do echo $i >$i; git add $i; git commit -q -m "commit $i"; done
		git checkout -q -b side HEAD~2; echo s >s; git add s; git commit -q -m side; git checkout -q main
		git merge -q -m merge side; git rebase -q --root 2>/dev/null; git gc -q; git fsck 2>/dev/null
		git clone -q . copy; git worktree add -q tree side; git stash -q 2>/dev/null; git log --format=%s | sort | tail -1
		git ls-files | wc -l; git -C copy log --oneline | wc -l
	`, want: "side\n6\n6\n"},
	{name: "python", needs: "python3", script: `
		cat >work.py <<-X
		import asyncio, multiprocessing, os, socket, sqlite3, subprocess, tempfile, threading, mmap, json, hashlib, ctypes
		print(subprocess.run(["sh", "-c", "echo child"], capture_output=True, text=True).stdout, end="")
		seen = []
		ts = [threading.Thread(target=seen.append, args=(i,)) for i in range(20)]
		[t.start() for t in ts]; [t.join() for t in ts]
		print(sorted(seen) == list(range(20)))
		async def serve(r, w):
		    w.write((await r.readline()).upper()); await w.drain(); w.close()
		async def main():
		    s = await asyncio.start_server(serve, "127.0.0.1", 0)
		    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
		    w.write(b"loopback\n"); print((await r.read()).decode(), end=""); w.close()
		    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
		    print((await p.communicate(b"async child\n"))[0].decode(), end="")
		asyncio.run(main())
		db = sqlite3.connect("work.db"); db.execute("pragma journal_mode=wal"); db.execute("create table t (x)")
		db.executemany("insert into t values (?)", [(i,) for i in range(1000)]); db.commit()
		print(db.execute("select sum(x) from t").fetchone()[0])
		def square(x): return x * x
		if __name__ == "__main__":
		    with multiprocessing.get_context("fork").Pool(2) as p: print(sum(p.map(square, range(10))))
		m = mmap.mmap(-1, 4096); m[:4] = b"anon"; print(m[:4].decode())
		a, b = socket.socketpair(); a.send(b"pair"); print(b.recv(4).decode())
		fd = os.memfd_create("m"); os.write(fd, b"x" * 10); print(os.fstat(fd).st_size)
		print(ctypes.CDLL(None).abs(-7), os.sched_getaffinity(0) != set(), len(os.urandom(8)))
		X
		python3 work.py
	`, want: "child\nTrue\nLOOPBACK\nasync child\n499500\n285\nanon\npair\n10\n7 True 8\n"},
	{name: "node", needs: "node", script: `
		cat >work.mjs <<-X
		import { execFileSync, spawn } from "node:child_process"; import { Worker } from "node:worker_threads"
		import fs from "node:fs"; import net from "node:net"; import crypto from "node:crypto"
		console.log(execFileSync("echo", ["child"], { encoding: "utf8" }).trim())
		const wasm = new Uint8Array([0,97,115,109,1,0,0,0,1,7,1,96,2,127,127,1,127,3,2,1,0,7,7,1,3,97,100,100,0,0,10,9,1,7,0,32,0,32,1,106,11])
		console.log((await WebAssembly.instantiate(wasm)).instance.exports.add(40, 2))
		let sum = 0; for (let i = 0; i < 1e7; i++) sum = (sum + i * i) % 1000003; console.log(sum) // hot enough to be compiled
		console.log(await new Promise(r => new Worker("require('worker_threads').parentPort.postMessage('worker')", { eval: true }).on("message", r)))
		console.log(await new Promise(r => { const w = fs.watch(".", () => { w.close(); r("watched") }); fs.writeFileSync("new", "") }))
		const s = net.createServer(c => c.end("unix")).listen("sock")
		console.log(await new Promise(r => net.connect("sock").on("data", d => r(d + "")))); s.close()
		console.log(crypto.generateKeyPairSync("ed25519").privateKey.asymmetricKeyType)
		X
		node work.mjs
	`, want: "child\n42\n990548\nworker\nwatched\nunix\ned25519\n"},
	{name: "compiler", needs: "gcc", script: `
		cat >work.c <<-X
		#include <pthread.h>
		#include <stdio.h>
		#include <sys/mman.h>
		static void *run(void *p) { ++*(int *)p; return p; }
		int main(void) {
			int n = 41; pthread_t t;
			pthread_create(&t, 0, run, &n); pthread_join(t, 0);
			unsigned char *code = mmap(0, 4096, PROT_READ|PROT_WRITE|PROT_EXEC, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
			printf("%d %s\n", n, code == MAP_FAILED ? "no" : "rwx");
		}
		X
		gcc -O2 -pthread -o work work.c && ./work
		gcc -shared -fPIC -o work.so -xc - <<<'int f(void) { return 5; }' && test -s work.so && echo library
	`, want: "42 rwx\nlibrary\n"},
	{name: "keys", needs: "ssh-keygen gpg", script: `
		ssh-keygen -q -t ed25519 -N '' -C me -f key && ssh-keygen -l -f key.pub | cut -d' ' -f1,3,4
		export GNUPGHOME=$PWD/gpg; mkdir -m 700 gpg
		gpg --batch --quiet --passphrase '' --quick-generate-key me ed25519 sign never 2>/dev/null
		echo text >text; gpg --batch --quiet --detach-sign text && gpg --verify text.sig text 2>/dev/null && echo signed
		gpgconf --kill all
	`, want: "256 me (ED25519)\nsigned\n"},
}
