# The images, the kernel and the initramfs that README.md names.
truncate -s 16M data.img
if command -v qemu-img >/dev/null; then qemu-img create -q -f qcow2 debian.qcow2 16M; fi
ln -s "$(go -C "$CHECKOUT" list -m -f '{{.Dir}}' github.com/gokrazy/kernel.amd64)/vmlinuz" vmlinuz
