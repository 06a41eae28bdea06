package image

import "os"

// WriteFile writes an archive with one image to a file.
func WriteFile(archive, name string, img *Image) error {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	if _, err := Write(f, []string{name}, img); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
