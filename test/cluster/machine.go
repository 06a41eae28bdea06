//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Machine is one host of the cluster: namespaces for network, mounts,
// processes, host name and IPC, whose process 1 is a copy of this program. Its
// files are the host's, but for /run, /var/lib and /var/log. It is safe for
// concurrent use.
type Machine struct {
	// Name is the host name: control, node1, node2.
	Name string
	// Address is what the other machines and the host reach it by.
	Address netip.Addr

	dir string // const; logs and files of the machine, below the cluster's folder
	pid int    // const; its process 1, as the host sees it
}

// A Process is a program that a machine runs.
type Process struct {
	Name string
	Args []string // the program's absolute path first
	Env  []string
	Log  string // file that its output is appended to
}

// startMachine makes the namespaces and returns when they are set up.
func startMachine(dir string, s settings) (*Machine, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := writeSettings(dir, s); err != nil {
		return nil, err
	}
	name := filepath.Base(dir)
	log, err := os.Create(filepath.Join(dir, "init.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.Cmd{
		Path: "/proc/self/exe", Args: []string{machineProgram, filepath.Dir(dir), name},
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{theirs}, Dir: "/",
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("machine %s: making its namespaces: %w", name, err)
	}
	go func() { _ = cmd.Wait() }() // reaps it when it is killed
	if err := readReady(ready); err != nil {
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	return &Machine{Name: name, dir: dir, pid: cmd.Process.Pid}, nil
}

// machines returns the process 1 of every machine of the cluster in the folder,
// by name.
func machines(state string) (map[string]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that has ended meanwhile, or a zombie, has none.
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00")
		if len(args) == 3 && args[0] == machineProgram && args[1] == state {
			found[args[2]] = pid
		}
	}
	return found, nil
}

// call gives the machine's process 1 an order.
func (m *Machine) call(ctx context.Context, method string, args, reply any) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(m.dir, socketFile))
	if err != nil {
		return fmt.Errorf("machine %s does not answer: %w", m.Name, err)
	}
	client := rpc.NewClient(conn)
	defer client.Close()
	call := client.Go("Machine."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-call.Done:
		return call.Error
	}
}

// Start starts a process in the machine, without waiting for anything. Its
// output goes to Log, by default NAME.log in the machine's folder; Env is by
// default a PATH that finds what Debian packages install.
func (m *Machine) Start(ctx context.Context, p Process) error {
	if p.Log == "" {
		p.Log = m.Log(p.Name)
	}
	if p.Env == nil {
		p.Env = []string{"PATH=" + systemPath}
	}
	if err := m.call(ctx, "Start", p, new(struct{})); err != nil {
		return &Failure{Component: p.Name, Machine: m.Name, Log: p.Log, Err: err}
	}
	return nil
}

// systemPath is where programs of Debian packages are.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Log returns the file that the process of the name writes to.
func (m *Machine) Log(process string) string { return filepath.Join(m.dir, process+".log") }

// stopGrace is how long a process may take to end before it is killed.
const stopGrace = 10 * time.Second

// Stop ends the process of the name, with SIGTERM and after ten seconds with
// SIGKILL, and returns when it is gone.
func (m *Machine) Stop(ctx context.Context, process string) error {
	return m.call(ctx, "Stop", Stop{process, stopGrace}, new(struct{}))
}

// Restart starts a process again that has ended, as it was started before.
func (m *Machine) Restart(ctx context.Context, process string) error {
	return m.call(ctx, "Restart", process, new(struct{}))
}

// Signal sends a signal to the process of the name: SIGSTOP and SIGCONT make
// it hang for a while, SIGKILL crashes it.
func (m *Machine) Signal(ctx context.Context, process string, s syscall.Signal) error {
	return m.call(ctx, "Signal", Signal{process, s}, new(struct{}))
}

// Ended says in words how the process of the name ended; empty while it runs.
func (m *Machine) Ended(ctx context.Context, process string) (string, error) {
	var ended string
	err := m.call(ctx, "Status", process, &ended)
	return ended, err
}

// Command returns a command that runs in the machine's namespaces. If ctx ends
// while it runs, what it started in the machine stays until the machine ends.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := append(m.enter(), "--", name)
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = append(os.Environ(), m.Environment()...)
	return cmd
}

// enter are nsenter's arguments for the machine. Not `ip netns exec`, which
// mounts another /sys and so hides the cgroups.
func (m *Machine) enter() []string {
	return []string{"--target", strconv.Itoa(m.pid), "--mount", "--net", "--pid", "--uts", "--ipc"}
}

// Environment lets ctr find the containers of kubelet without options.
func (m *Machine) Environment() []string {
	return []string{"CONTAINERD_ADDRESS=" + filepath.Join(m.dir, "containerd.sock"), "CONTAINERD_NAMESPACE=k8s.io", "PATH=" + systemPath}
}

// Exec runs a command in the machine and returns what it printed. An error has
// that too.
func (m *Machine) Exec(ctx context.Context, name string, args ...string) (string, error) {
	out, err := m.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w\n%s", m.Name, strings.Join(append([]string{name}, args...), " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// DialContext connects from within the machine's network. The address is an IP
// address with a port: names would be resolved outside.
func (m *Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", m.Name, err)
	}
	var conn net.Conn
	var err error
	onSpareThread(func() {
		// A socket belongs to the network of the thread that makes it.
		if err = enterNetwork(m.pid); err != nil {
			err = fmt.Errorf("entering the network of %s: %w", m.Name, err)
			return
		}
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
	})
	return conn, err
}

// onSpareThread runs a function on a thread that ends with it, and returns when
// it has. It is never the program's first thread: that one cannot end, and its
// namespaces are those that /proc shows for the whole program.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this waits it keeps the first thread from being taken again.
			onSpareThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

func enterNetwork(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

// kill ends a machine whole, and waits until nothing of it is left.
func kill(ctx context.Context, pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return poll(ctx, func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil // gone
		}
		// Process 1 of a namespace becomes a zombie only when all others are gone.
		_, fields, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(fields, "Z") || strings.HasPrefix(fields, "X") {
			return nil
		}
		return fmt.Errorf("process %d does not end", pid)
	})
}
