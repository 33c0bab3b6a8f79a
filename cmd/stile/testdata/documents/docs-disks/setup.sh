# The images that docs/disks.md names: debian.img has a program by the name of a shell.
if command -v qemu-img >/dev/null; then qemu-img create -q -f qcow2 debian.qcow2 16M; fi
mkdir -p root/bin
cp "$TOOLS/stile" root/bin/sh
if command -v mkfs.ext4 >/dev/null; then mkfs.ext4 -q -d root debian.img 64M; fi
