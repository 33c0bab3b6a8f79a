package main

import (
	"fmt"
	"os"
	"os/exec"
)

// programChecks are what programs do that are known to be particular about file systems.
var programChecks = []check{
	{"copies", []string{"tar", "cp"}, false, script(`
mkdir -p from/folder && echo content >from/file && ln -s file from/link && ln from/file from/hard
chmod 640 from/file && chown 12:34 from/file && touch -d 2001-02-03 from/file
cp -a from to && mkdir unpacked && tar cf - from | tar xpf - -C unpacked
for copy in to unpacked/from; do
	[ "$(stat -c '%a %u:%g %h %Y' from/file)" = "$(stat -c '%a %u:%g %h %Y' $copy/file)" ]
	[ "$(readlink $copy/link)" = file ] && [ $copy/file -ef $copy/hard ]
done`)},
	{"git", []string{"git"}, false, script(gitEnvironment + `
from=$(mktemp -d) && git init -q $from && echo 1 >$from/file && git -C $from add . && git -C $from commit -qm first
git clone -q $from to && [ -z "$(git -C to status --porcelain)" ] && cmp $from/file to/file`)},
	{"git more", []string{"git"}, true, script(gitEnvironment + `
git init -q one && echo 1 >one/file && git -C one add . && git -C one commit -qm first && git -C one gc -q && git clone -q --no-local one two
cd two && git mv file moved && git commit -qam second && git stash list && git fsck --strict && git -C ../one pull -q ../two && [ -e ../one/moved ]`)},
	{"make -j", []string{"make"}, false, script(`
printf 'all: $(foreach i,1 2 3 4 5 6 7 8,out/$(i))\n\tcat out/? >sum\nout/%%: | out\n\techo $* >$@.new && mv $@.new $@\nout:\n\tmkdir -p out\n' >Makefile
make -sj4 && [ "$(cat sum | tr '\n' ' ')" = "1 2 3 4 5 6 7 8 " ] && make -sq out/1`)},
	{"sqlite", []string{"sqlite3"}, false, script(`
[ "$(sqlite3 base 'pragma journal_mode=wal; create table t(i); insert into t values(1); select count(*) from t' | tr '\n' ' ')" = "wal 1 " ]
# A reader keeps the log open while others write.
coproc sqlite3 base
echo 'select count(*) from t;' >&${COPROC[1]} && read -u ${COPROC[0]} count && [ $count = 1 ]
sqlite3 base 'pragma busy_timeout=60000; insert into t values(2)' >/dev/null & other=$!
sqlite3 base 'pragma busy_timeout=60000; insert into t values(3)' >/dev/null && wait $other
echo 'select count(*) from t;' >&${COPROC[1]} && read -u ${COPROC[0]} count && [ $count = 3 ]
[ -s base-wal ] && kill $COPROC_PID
[ "$(sqlite3 base 'pragma integrity_check; select count(*) from t' | tr '\n' ' ')" = "ok 3 " ]`)},
	{"go build", []string{"go"}, true, script(`
export GOTOOLCHAIN=local CGO_ENABLED=0 # the cache of compiled packages is the host's, copy on write
printf 'module small\ngo 1.21\n' >go.mod && printf 'package main\nfunc main() { println("built") }\n' >main.go
go build -trimpath -o small . && [ "$(./small 2>&1)" = built ]`)},
}

// gitEnvironment spares the templates and the maintenance that git starts by itself.
const gitEnvironment = `
export HOME=$PWD GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_TEMPLATE_DIR= GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=maintenance.auto GIT_CONFIG_VALUE_0=false`

// script makes a check of a shell script, which runs in the folder.
func script(text string) func(string) error {
	return func(dir string) error {
		cmd := exec.Command("bash", "-euc", text)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}
