// Command toolbox is what test pods run: images from scratch have no shell, so
// one static program is their pause, sleep, touch, HTTP server and client. The
// first word picks the tool, be it the name of a link or the first argument.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tools by name. What a tool returns goes to standard error, and the program
// ends with code 1.
var tools = map[string]struct {
	usage string
	run   func(args []string) error
}{
	"pause":  {"holds a pod's namespaces, and reaps, until SIGTERM", pause},
	"sleep":  {"SECONDS", sleep},
	"touch":  {"FILE: creates it", touch},
	"rm":     {"FILE", func(args []string) error { return os.Remove(only(args)) }},
	"exists": {"FILE: succeeds if there is one", exists},
	"get":    {"URL: prints what an HTTP server answers with 2xx", get},
	"lookup": {"NAME: prints its addresses", lookup},
	"door":   {"ADDRESS FILE: listens while there is no such file", door},
	"serve":  {"ADDRESS [abrupt]: an HTTP server that says who it is; see serve.go", serve},
}

func main() {
	words := append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	if _, ok := tools[words[0]]; !ok && len(words) > 1 {
		words = words[1:]
	}
	tool, ok := tools[words[0]]
	if !ok {
		fmt.Fprintln(os.Stderr, "toolbox TOOL, which is one of")
		for name, tool := range tools {
			fmt.Fprintf(os.Stderr, "  %s %s\n", name, tool.usage)
		}
		os.Exit(2)
	}
	if err := tool.run(words[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", words[0], err)
		os.Exit(1)
	}
}

// only returns the one argument that most tools take.
func only(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return ""
}

// pause is the first process of a pod: orphans of containers that share its
// PID namespace become its children.
func pause([]string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return nil
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

func sleep(args []string) error {
	seconds, err := strconv.ParseFloat(only(args), 64)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)))
	defer cancel()
	<-ctx.Done()
	return nil
}

func touch(args []string) error {
	f, err := os.OpenFile(only(args), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func exists(args []string) error {
	_, err := os.Stat(only(args))
	return err
}

// door is what a TCP probe knocks at.
func door(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: door ADDRESS FILE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return keepDoor(ctx, args[0], args[1])
}

func keepDoor(ctx context.Context, address, file string) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	var open net.Listener
	for {
		_, err := os.Stat(file)
		switch shut := err == nil; {
		case shut && open != nil:
			open.Close()
			open = nil
		case !shut && open == nil:
			if open, err = new(net.ListenConfig).Listen(ctx, "tcp", address); err != nil {
				return err
			}
			go greet(open)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			if open != nil {
				open.Close()
			}
			return nil
		}
	}
}

func greet(door net.Listener) {
	for {
		c, err := door.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// patience bounds what a tool waits for the network.
const patience = 10 * time.Second

func get(args []string) error {
	client := http.Client{Timeout: patience}
	res, err := client.Get(only(args))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		return err
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}

func lookup(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, only(args))
	if err != nil {
		return err
	}
	slices.Sort(addresses)
	fmt.Println(strings.Join(addresses, "\n"))
	return nil
}
