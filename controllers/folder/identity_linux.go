package folder

import (
	"io/fs"
	"syscall"
)

// identity tells two files of one name apart: an editor may have put another
// one in place within the resolution of the file system's clock.
func identity(info fs.FileInfo) [4]int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return [4]int64{}
	}
	return [4]int64{int64(st.Dev), int64(st.Ino), st.Ctim.Sec, st.Ctim.Nsec}
}
