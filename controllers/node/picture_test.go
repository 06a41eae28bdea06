package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNodeGone: a node whose object was deleted gets no new connections from load
// balancers, and answers at its addresses as before.
func TestNodeGone(t *testing.T) {
	p := newPicture()
	p.setNode(&corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}})
	p.setNode(nil)
	o := Options{NodePorts: NodePorts{Primary: true}}
	if n := o.nodeModel(p, nil); len(n.IPs) != 1 || len(n.NodePorts.Addresses) != 1 {
		t.Errorf("the node has the addresses %v and answers NodePorts at %v", n.IPs, n.NodePorts.Addresses)
	}
	if eligible(p.node.object) {
		t.Error("load balancers are told to send connections")
	}
}
