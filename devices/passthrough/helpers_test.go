package passthrough

import "github.com/stile-vmm/stile/devices/irq"

func message(data uint32) irq.Message { return message2(0xfee00000, data) }

func message2(address uint64, data uint32) irq.Message {
	return irq.Message{Address: address, Data: data}
}
