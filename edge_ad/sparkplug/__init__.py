"""The station as an edge node of Eclipse Sparkplug 3.0, for SCADA hosts; docs/sparkplug.md."""
