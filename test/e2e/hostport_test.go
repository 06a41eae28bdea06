//go:build e2e && linux

package e2e

import (
	"net"
	"slices"
	"testing"
)

// hostPorts installs the controller a second time, as a DaemonSet on ports 80
// and 443 of each node, for the same class. That needs a privileged namespace.
func (e *edge) hostPorts(t *testing.T) {
	const namespace = "host-ports"
	e.kubectl(t, "", "create", "namespace", namespace)
	e.kubectl(t, "", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
	e.runHelm(t, slices.Concat([]string{"install", "node", "../../charts/portico", "-n", namespace}, values, []string{
		"--set", "kind=DaemonSet", "--set", "hostPorts.enabled=true", "--set", "service.type=ClusterIP",
		"--set", "ingressClass.create=false", "--set", "publish.status=false"})...)
	e.rollout(t, "-n", namespace, "daemonset/node-portico")
	for _, node := range e.Nodes() {
		e.eventually(t, "an answer at port 443 of "+node.Name, func() error {
			_, err := e.askAt(host, net.JoinHostPort(node.Address.String(), "443"))
			return err
		})
	}
	e.runHelm(t, "uninstall", "node", "-n", namespace, "--wait")
	e.kubectl(t, "", "delete", "namespace", namespace)
}
