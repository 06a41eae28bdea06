//go:build !linux

package listen

import "net"

var listenConfig net.ListenConfig
