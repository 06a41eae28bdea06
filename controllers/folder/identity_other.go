//go:build !linux

package folder

import "io/fs"

// identity is left to size and time where the system's own is not known.
func identity(fs.FileInfo) [4]int64 { return [4]int64{} }
